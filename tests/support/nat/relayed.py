"""Nodes that relay or are relayed, in this process; the test says who can be dialled.

A node with `reach=Reach.PUBLIC` relays, and tells so to nobody: a node uses the relays that its
`relays` names, where real nodes believe what peers say of themselves.

`python -m tests.support.nat.relayed DIR SEED SETTINGS` runs a relay as a process of its own: it
prints its address, and runs until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import uvloop

from aitorrent_nat.config import NatConfig
from aitorrent_nat.punch.around import Witness
from aitorrent_nat.punch.part import PunchPart
from aitorrent_nat.relay.part import RelayPart
from aitorrent_nat.stun.behaviour import Behaviour, Filtering, Mapping
from aitorrent_transport.plugin import TransportPlugin
from aitorrent_transport.service import TransportService
from aitorrentd.api import (
    ADVERTISERS,
    ATTEMPTS,
    DIALERS,
    PEER_PORT,
    PROTECTION,
    TRANSPORT,
    PeerId,
    PluginContext,
    PluginInfo,
    Reach,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.network.addresses import Address
from aitorrentd.kernel import Kernel, KernelSettings, PluginSource
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import (
    ROOT,
    Identity,
    NodeProcess,
    ProtocolsPlugin,
)


class RelayPlugin:
    """The relays of the NAT plugin, without the rest."""

    def __init__(self, reach: Reach, *, punches: bool = False) -> None:
        self.reach = reach
        self.relays: set[PeerId] = set()
        self.part: RelayPart | None = None
        self.punches = punches
        self.punch: PunchPart | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        wanted = (TRANSPORT, PROTECTION, PEER_PORT, DIALERS, ADVERTISERS, ATTEMPTS)
        return PluginInfo("nat", "relays", requires=wanted, config=NatConfig)

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        self.part = RelayPart(ctx, lambda: self.reach, lambda peer: peer in self.relays)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.part.running())
            if self.punches:
                transport, guard = ctx.service(TRANSPORT), ctx.service(PROTECTION)
                self.punch = PunchPart(ctx, transport, guard, Reached(self))
                await stack.enter_async_context(self.punch.running())
            yield

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        parts = [part for part in (self.part, self.punch) if part is not None]
        return [protocol for part in parts for protocol in part.protocols()]


class Reached:
    """Behind a port-restricted NAT, with relays that the test names and no STUN server."""

    behaviour = Behaviour(
        Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, "127.0.0.1"
    )

    def __init__(self, plugin: RelayPlugin) -> None:
        self._plugin = plugin

    @property
    def reach(self) -> Reach:
        return self._plugin.reach

    def relays(self, peer: PeerId) -> bool:
        return peer in self._plugin.relays

    def witnesses(self) -> list[Witness]:
        return []

    def addresses(self) -> list[Address]:
        return []


class Place(Protocol):
    """A relay, in this process or another."""

    @property
    def id(self) -> PeerId: ...
    @property
    def port(self) -> int: ...
    @property
    def address(self) -> str: ...


class RelayNode:
    """A running node."""

    def __init__(self, kernel: Kernel, plugin: RelayPlugin) -> None:
        assert plugin.part is not None
        self.kernel = kernel
        self.plugin = plugin
        self.part = plugin.part
        self.transport = cast(TransportService, kernel.service(TRANSPORT))

    @property
    def id(self) -> PeerId:
        return self.transport.node_id

    @property
    def port(self) -> int:
        return self.transport.bound[0][1]

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.id}"

    def behind(self, relay: Place) -> str:
        """The address that leads to this node through `relay`."""
        return f"/ip4/127.0.0.1/tcp/{relay.port}/p2p/{relay.id}/p2p-circuit/p2p/{self.id}"

    async def reserves_at(self, *relays: Place) -> None:
        """Connect to the relays, and wait for a reservation at each."""
        self.plugin.relays.update(relay.id for relay in relays)
        for relay in relays:
            await self.transport.connect(relay.address)
        self.part.reserver.wake.set()
        await wait_for(lambda: {r.id for r in relays} <= set(self.live()))

    def live(self) -> list[PeerId]:
        """The relays at which it holds a reservation."""
        return [held.relay for held in self.part.reserver.held if held.is_live]


@asynccontextmanager
async def relay_node(
    path: Path,
    seed: str,
    reach: Reach = Reach.CONE,
    *,
    transport: dict[str, Any] | None = None,
    punches: bool = False,
    **nat: Any,
) -> AsyncIterator[RelayNode]:
    """A node whose id derives from `seed`; `nat` are settings of the NAT plugin."""

    async def no_worker(entry: str, *, name: str, env: Any = None) -> Any:
        raise AssertionError("no worker is expected")

    plugin, protocols = RelayPlugin(reach, punches=punches), ProtocolsPlugin()
    kernel = Kernel(
        settings=KernelSettings(
            plugins={
                "transport": {"listen": "127.0.0.1", "port": 0, **(transport or {})},
                "nat": nat,
            },
            required=(),
            network="test",
            data_dir=path / seed / "data",
            cache_dir=path / seed / "cache",
            runtime_dir=path / seed / "run",
            spawn_worker=no_worker,
        ),
        identity=Identity(seed),
        sources=[
            PluginSource.of(TransportPlugin),
            PluginSource.of(lambda: plugin, name="nat"),
            PluginSource.of(lambda: protocols, name="protocols"),
        ],
    )
    try:
        await kernel.start()
        yield RelayNode(kernel, plugin)
    finally:
        await kernel.stop()
        await asyncio.sleep(0)


async def start_relay(path: Path, seed: str, port: int = 0, **nat: Any) -> NodeProcess:
    """A relay as a process; kill it when done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.nat.relayed",
        str(path),
        seed,
        json.dumps({"transport": {"port": port}, **nat}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    return NodeProcess(process, line.decode().strip())


async def _main() -> None:
    settings = json.loads(sys.argv[3])
    async with relay_node(Path(sys.argv[1]), sys.argv[2], Reach.PUBLIC, **settings) as relay:
        sys.stdout.write(relay.address + "\n")
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()
        loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    uvloop.run(_main())
