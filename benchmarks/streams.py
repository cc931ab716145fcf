"""Streams between two nodes on loopback, against the bare link in the same run.

Measured are the round trip of a frame with an 8 KiB tail on an open stream (one pipeline hop there
and back), the same while a bulk stream fills the channel, and megabytes per second of one bulk
stream; for the link, the round trip of an 8 KiB record and its megabytes per second. Bytes per
CPU-second count both ends, user and system; on a busy machine rely on these figures.

    python benchmarks/streams.py --out benchmarks/results/streams.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrent_transport.links.dial import dial  # noqa: E402
from aitorrent_transport.links.link import Link  # noqa: E402
from aitorrent_transport.links.listener import Listener  # noqa: E402
from aitorrent_transport.secure.certificate import Credentials  # noqa: E402
from aitorrentd.api import (  # noqa: E402
    PluginContext,
    PluginInfo,
    Priority,
    Stream,
    WireProtocol,
    frame_head,
    hookimpl,
    read_frame,
)
from benchmarks.report import finish, spread  # noqa: E402
from tests.support.transport import transport_nodes  # noqa: E402

TAIL_BYTES: Final = 8192
RECORD_BYTES: Final = 60 * 1024
HOP: Final = "/benchmark/hop"
SINK: Final = "/benchmark/sink"
SECONDS_OF_SERVER: Final = 600.0


async def hop(stream: Stream) -> None:
    """Sends each frame back."""
    while True:
        frame = await read_frame(stream)
        await stream.write(frame_head({"op": "result"}, len(frame.tail)))
        await stream.write(frame.tail)


async def sink(stream: Stream) -> None:
    """Reads everything, then confirms."""
    while await stream.read():
        pass
    await stream.write(b"all")


class BenchmarkPlugin:
    """The two protocols."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo("protocols", "benchmark protocols")

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """An empty lifespan."""
        yield

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """The hop and sink protocols."""
        return [
            WireProtocol(HOP, hop, priority=Priority.TENSOR),
            WireProtocol(SINK, sink, priority=Priority.BULK),
        ]


async def serve(directory: str) -> None:
    """The far end: a node, and a listener for bare links that answers each 8 KiB record."""
    transport_nodes.ProtocolsPlugin = BenchmarkPlugin  # type: ignore[assignment,misc]

    def accept(link: Link) -> None:
        def answer(record: memoryview) -> None:
            if len(record) <= TAIL_BYTES:
                link.send(bytes(record))

        link.on_record = answer
        link.start()

    credentials = Credentials(transport_nodes.Identity("far link"), "test", "benchmark")
    listener = Listener(credentials, accept)
    _, port = await listener.listen("127.0.0.1", 0)
    async with transport_nodes.node(Path(directory), "far") as node:
        print(node.address, port, flush=True)
        await asyncio.sleep(SECONDS_OF_SERVER)


async def times(rounds: int, once: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds of each call, after a tenth of them to warm up."""
    found = []
    for i in range(rounds + rounds // 10):
        start = time.perf_counter()
        await once()
        if i >= rounds // 10:
            found.append((time.perf_counter() - start) * 1000)
    return found


def cpu_s(pid: int) -> float:
    """CPU time of this process and of process `pid`, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bulk:
    """Bulk transfer speeds, in megabytes."""

    def __init__(self, pid: int) -> None:
        self.per_s: list[float] = []
        self.per_cpu_s: list[float] = []
        self._pid = pid

    async def measure(self, size: int, transfer: Callable[[int], Awaitable[object]]) -> None:
        """Time one transfer of `size` bytes."""
        start, cpu = time.perf_counter(), cpu_s(self._pid)
        await transfer(size)
        self.per_s.append(size / (time.perf_counter() - start) / 1e6)
        self.per_cpu_s.append(size / (cpu_s(self._pid) - cpu) / 1e6)


async def bare_link(port: int, rounds: int, size: int, bulk: Bulk) -> list[float]:
    """Round trips of a bare link, in milliseconds; its bulk speeds go to `bulk`."""
    identity = transport_nodes.Identity("near link")
    link = await dial("127.0.0.1", port, Credentials(identity, "test", "benchmark"))
    came, writable = asyncio.Event(), asyncio.Event()
    link.on_record = lambda record: came.set()
    link.on_writable = writable.set
    link.start()
    body = os.urandom(TAIL_BYTES)

    async def once() -> None:
        came.clear()
        link.send(body)
        await came.wait()

    hops = await times(rounds, once)
    record = os.urandom(RECORD_BYTES)

    async def transfer(amount: int) -> None:
        for _ in range(amount // RECORD_BYTES):
            if not link.writable:
                writable.clear()
                await writable.wait()
            link.send(record)
        await once()  # the answer follows everything sent before it was opened

    await bulk.measure(size, transfer)
    link.close()
    return hops


async def measure(
    address: str, port: int, pid: int, directory: str, options: Any
) -> dict[str, Any]:
    """All figures, in rounds, against the node and the link listener in process `pid`."""
    size = options.mib << 20
    link_ms: list[float] = []
    streams, links = Bulk(pid), Bulk(pid)
    async with transport_nodes.node(Path(directory), "near") as near:
        far = await near.transport.connect(address)
        stream = await near.transport.open_stream(far.id, HOP, priority=Priority.TENSOR)
        body = memoryview(os.urandom(TAIL_BYTES))
        piece = os.urandom(1 << 20)

        async def once() -> None:
            await stream.write(frame_head({"op": "step", "session": b"0" * 16}, len(body)))
            await stream.write(body)
            await read_frame(stream)

        async def bulk(amount: int) -> None:
            target = await near.transport.open_stream(far.id, SINK, priority=Priority.BULK)
            for _ in range(amount >> 20):
                await target.write(piece)
            await target.close_write()
            await target.read()
            await target.close()

        hops = []
        for _ in range(options.rounds):
            hops += await times(options.hops, once)
            await streams.measure(size, bulk)
            link_ms += await bare_link(port, options.hops, size, links)
        async with asyncio.TaskGroup() as group:
            busy = group.create_task(bulk(1 << 40))
            loaded = await times(min(options.hops, 300), once)
            busy.cancel()
    return {
        "stream_round_trip_ms": spread(hops),
        "link_round_trip_ms": spread(link_ms),
        "stream_round_trip_beside_bulk_ms": spread(loaded),
        "stream_mb_per_s": spread(streams.per_s),
        "link_mb_per_s": spread(links.per_s),
        "stream_mb_per_cpu_s": spread(streams.per_cpu_s),
        "link_mb_per_cpu_s": spread(links.per_cpu_s),
        "stream_to_link_per_cpu_s": round(
            statistics.median(streams.per_cpu_s) / statistics.median(links.per_cpu_s), 3
        ),
    }


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hops", type=int, default=1000, help="round trips in each round")
    parser.add_argument("--mib", type=int, default=256, help="bulk bytes in each round, in MiB")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(options.serve))
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, __file__, "--serve", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address, port = server.stdout.readline().split()
                figures = uvloop.run(measure(address, int(port), server.pid, directory, options))
            finally:
                server.kill()
    finish(figures, options.out)


if __name__ == "__main__":
    main()
