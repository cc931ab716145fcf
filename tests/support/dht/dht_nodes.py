"""Nodes with the transport and the DHT, in this process, on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aitorrent_dht.methods import DhtMethods
from aitorrent_dht.plugin import DhtPlugin
from aitorrent_dht.service import DhtService
from aitorrent_transport.plugin import TransportPlugin
from aitorrent_transport.service import TransportService
from aitorrentd.api import TRANSPORT, PeerId
from aitorrentd.kernel import Kernel, KernelSettings, PluginSource
from tests.support.transport.transport_nodes import Identity


@dataclass
class DhtTestNode:
    """A kernel with its transport and its DHT."""

    kernel: Kernel
    transport: TransportService
    plugin: DhtPlugin

    @property
    def dht(self) -> DhtService:
        assert self.plugin._service is not None
        return self.plugin._service

    @property
    def methods(self) -> DhtMethods:
        return DhtMethods(self.dht)

    @property
    def id(self) -> PeerId:
        return self.transport.node_id

    @property
    def port(self) -> int:
        return self.transport.bound[0][1]

    @property
    def address(self) -> str:
        return self.transport.addresses()[0]

    def knows(self, *others: DhtTestNode) -> bool:
        """Whether the routing table has these nodes."""
        keys = {contact.key for contact in self.dht.node.contacts()}
        return {other.dht.node.state.key for other in others} <= keys


@asynccontextmanager
async def dht_node(
    path: Path,
    seed: str,
    *,
    network: str = "test",
    dht: Mapping[str, Any] | None = None,
    **transport: Any,
) -> AsyncIterator[DhtTestNode]:
    """A running node; its id derives from `seed`, its state is in `path`."""

    async def no_worker(entry: str, *, name: str, env: Any = None) -> Any:
        raise AssertionError("no worker is expected")

    plugin = DhtPlugin()
    kernel = Kernel(
        settings=KernelSettings(
            plugins={
                "transport": {"listen": "127.0.0.1", "port": 0, **transport},
                "dht": dict(dht or {}),
            },
            required=(),
            network=network,
            data_dir=path / seed / "data",
            cache_dir=path / seed / "cache",
            runtime_dir=path / seed / "run",
            spawn_worker=no_worker,
            node_name="",
        ),
        identity=Identity(seed),
        sources=[
            PluginSource.of(TransportPlugin),
            PluginSource.of(lambda: plugin, name="dht"),
        ],
    )
    try:
        await kernel.start()
        yield DhtTestNode(kernel, cast(TransportService, kernel.service(TRANSPORT)), plugin)
    finally:
        await kernel.stop()
