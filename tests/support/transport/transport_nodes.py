"""Nodes with only the transport plugin and a few test protocols, in this process or another.

`python -m tests.support.transport.transport_nodes DIR PORT [BOOTSTRAP]` prints its address and runs
one until its standard input ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aitorrent_transport.plugin import TransportPlugin
from aitorrent_transport.service import TransportService
from aitorrentd.api import (
    TRANSPORT,
    Event,
    PeerId,
    PluginContext,
    PluginInfo,
    Priority,
    Stream,
    Verdict,
    WireProtocol,
    hookimpl,
)
from aitorrentd.kernel import Kernel, KernelSettings, PluginSource
from aitorrentd.runtime.identity import Identity as NodeIdentity

ECHO = "/test/echo"
SINK = "/test/sink"
STUCK = "/test/stuck"
BROKEN = "/test/broken"
ROOT = Path(__file__).parents[3]


class Identity(NodeIdentity):
    """An identity with a key derived from a seed."""

    def __init__(self, seed: str) -> None:
        super().__init__(hashlib.sha256(seed.encode()).digest())


async def echo(stream: Stream) -> None:
    """Echoes everything, then ends."""
    while part := await stream.read():
        await stream.write(part)


async def sink(stream: Stream) -> None:
    """Reads everything, then reports how much."""
    total = 0
    while part := await stream.read(1 << 20):
        total += len(part)
    await stream.write(str(total).encode())


async def stuck(stream: Stream) -> None:
    """Never reads."""
    await asyncio.Event().wait()


async def broken(stream: Stream) -> None:
    """Has a bug."""
    raise ZeroDivisionError("a bug")


class ProtocolsPlugin:
    """Test protocols, and a policy that admits all peers but `refused`."""

    def __init__(self) -> None:
        self.refused: set[str] = set()

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        return PluginInfo("protocols", "test protocols")

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        yield

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        return [
            WireProtocol(ECHO, echo),
            WireProtocol(SINK, sink, priority=Priority.BULK),
            WireProtocol(STUCK, stuck, max_streams=3),
            WireProtocol(BROKEN, broken),
        ]

    @hookimpl
    def aitorrent_admit_peer(self, peer: Any) -> Verdict | None:
        return Verdict(False, "not on the list") if peer.id in self.refused else None


@dataclass
class TestNode:
    """A kernel with its transport, and the events it published."""

    __test__ = False

    kernel: Kernel
    transport: TransportService
    policy: ProtocolsPlugin
    events: list[Event] = field(default_factory=list)

    @property
    def id(self) -> PeerId:
        return self.transport.node_id

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.id}"

    @property
    def port(self) -> int:
        return self.transport.bound[0][1]

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


@asynccontextmanager
async def node(
    path: Path, seed: str, *, network: str = "test", name: str = "", **config: Any
) -> AsyncIterator[TestNode]:
    """A running node; its id derives from `seed`, its state is in `path`."""

    async def no_worker(entry: str, *, name: str, env: Any = None) -> Any:
        raise AssertionError("no worker is expected")

    policy = ProtocolsPlugin()
    kernel = Kernel(
        settings=KernelSettings(
            plugins={"transport": {"listen": "127.0.0.1", "port": 0, **config}},
            required=(),
            network=network,
            data_dir=path / seed / "data",
            cache_dir=path / seed / "cache",
            runtime_dir=path / seed / "run",
            spawn_worker=no_worker,
            node_name=name,
        ),
        identity=Identity(seed),
        sources=[
            PluginSource.of(TransportPlugin),
            PluginSource.of(lambda: policy, name="protocols"),
        ],
    )
    events: list[Event] = []
    with kernel.bus.subscribe(Event) as happened:
        recording = asyncio.create_task(_record(happened, events))
        try:
            await kernel.start()
            transport = cast(TransportService, kernel.service(TRANSPORT))
            yield TestNode(kernel, transport, policy, events)
        finally:
            await kernel.stop()
            recording.cancel()
            await asyncio.gather(recording, return_exceptions=True)


async def _record(happened: AsyncIterator[Event], events: list[Event]) -> None:
    async for event in happened:
        events += [event]


class NodeProcess:
    """A node in its own process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address
        self.id = PeerId(address.rpartition("/")[2])
        self.port = int(address.split("/")[4])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await asyncio.wait_for(self.process.wait(), 10)
        assert self.process.stdin is not None
        self.process.stdin.close()


async def start_process(path: Path, seed: str, port: int = 0, **config: Any) -> NodeProcess:
    """A node as a subprocess; kill it when done."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.transport.transport_nodes",
        str(path),
        seed,
        json.dumps({"port": port, **config}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"},
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    return NodeProcess(process, line.decode().strip())


@contextmanager
def stopped(other: NodeProcess) -> Any:
    """Suspend the process while the block runs."""
    other.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        other.signal(signal.SIGCONT)


async def _main() -> None:
    async with node(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3])) as here:
        sys.stdout.write(here.address + "\n")
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(sys.stdin.fileno(), ended.cancel)
        await asyncio.wait({ended})
        loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    if "uvloop" in sys.argv[4:]:
        import uvloop

        uvloop.run(_main())
    else:
        asyncio.run(_main())
