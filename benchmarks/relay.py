"""A bulk stream through a relay against one over a direct channel, in alternation.

Three processes on loopback: the near end, the far end, and the relay. Near and far run two nodes
each, one pair connected directly and one through the relay, whose limits are lifted. Measured are
megabytes per second of one stream, the same per CPU-second of all three processes, the round trip
of 8 KiB, and the time from the dial to a connected peer.

    python benchmarks/relay.py --out benchmarks/results/relay.json
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
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from aitorrentd.api import PeerId, Priority, Reach  # noqa: E402
from benchmarks.report import finish, spread  # noqa: E402
from tests.support.nat.relayed import RelayNode, relay_node  # noqa: E402
from tests.support.nodes import wait_for  # noqa: E402
from tests.support.transport.transport_nodes import ECHO, SINK  # noqa: E402

BODY_BYTES: Final = 8192
LIMITS: Final = {"rate": "100 GiB/s", "total_rate": "100 GiB/s", "bytes_per_hour": "100 TiB"}
SECONDS_OF_SERVER: Final = 600.0


async def serve_relay(directory: str) -> None:
    """The relay; prints its address."""
    async with relay_node(Path(directory), "relay", Reach.PUBLIC, relay_limits=LIMITS) as relay:
        print(relay.address, flush=True)
        await asyncio.sleep(SECONDS_OF_SERVER)


async def serve_far(directory: str, relay: str) -> None:
    """The far nodes; prints the direct address of one, and that of the other behind the relay."""
    async with (
        relay_node(Path(directory), "far", Reach.PUBLIC) as direct,
        relay_node(Path(directory), "far behind") as behind,
    ):
        view = await behind.transport.connect(relay)
        behind.plugin.relays.add(view.id)
        behind.part.reserver.wake.set()
        await wait_for(behind.live)
        place = relay.rpartition("/p2p/")[0]
        circuit = f"{place}/p2p/{view.id}/p2p-circuit/p2p/{behind.id}"
        print(direct.address, circuit, flush=True)
        await asyncio.sleep(SECONDS_OF_SERVER)


class Way:
    """One pair of nodes, and what was measured between them."""

    def __init__(self, near: RelayNode, far: PeerId, pids: list[int]) -> None:
        self.near = near
        self.far = far
        self.mb_per_s: list[float] = []
        self.mb_per_cpu_s: list[float] = []
        self.hop_ms: list[float] = []
        self._pids = pids
        self._piece = os.urandom(1 << 20)

    async def bulk(self, size: int) -> None:
        """One transfer of `size` bytes."""
        start, cpu = time.perf_counter(), cpu_s(self._pids)
        stream = await self.near.transport.open_stream(self.far, SINK, priority=Priority.BULK)
        for _ in range(size >> 20):
            await stream.write(self._piece)
        await stream.close_write()
        await stream.read()
        await stream.close()
        self.mb_per_s.append(size / (time.perf_counter() - start) / 1e6)
        self.mb_per_cpu_s.append(size / (cpu_s(self._pids) - cpu) / 1e6)

    async def hops(self, rounds: int) -> None:
        """Round trips of 8 KiB."""
        stream = await self.near.transport.open_stream(self.far, ECHO, priority=Priority.TENSOR)
        body = self._piece[:BODY_BYTES]
        for _ in range(rounds):
            start = time.perf_counter()
            await stream.write(body)
            await stream.read_exactly(BODY_BYTES)
            self.hop_ms.append((time.perf_counter() - start) * 1000)
        await stream.close()


def cpu_s(pids: list[int]) -> float:
    """CPU time of this process and the others, user and system."""
    total = time.process_time()
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


async def measure(
    addresses: tuple[str, str], pids: list[int], directory: str, options: Any
) -> dict[str, Any]:
    """All figures, in rounds."""
    direct_address, relayed_address = addresses
    async with (
        relay_node(Path(directory), "near") as near,
        relay_node(Path(directory), "near behind") as near_behind,
    ):
        connected = [
            await timed(lambda: near.transport.connect(direct_address)),
            await timed(lambda: near_behind.transport.connect(relayed_address)),
        ]
        (direct_ms, direct_view), (relayed_ms, relayed_view) = connected
        assert (direct_view.route, relayed_view.route) == ("direct", "relay")
        direct = Way(near, direct_view.id, pids)
        relayed = Way(near_behind, relayed_view.id, pids)
        for way in (direct, relayed):
            await way.bulk(32 << 20)
            way.mb_per_s.clear()
            way.mb_per_cpu_s.clear()
        for _ in range(options.rounds):
            for way in (direct, relayed):
                await way.bulk(options.mib << 20)
                await way.hops(options.hops)
    return {
        "direct_mb_per_s": spread(direct.mb_per_s),
        "relayed_mb_per_s": spread(relayed.mb_per_s),
        "relayed_to_direct": ratio(relayed.mb_per_s, direct.mb_per_s),
        "direct_mb_per_cpu_s": spread(direct.mb_per_cpu_s),
        "relayed_mb_per_cpu_s": spread(relayed.mb_per_cpu_s),
        "relayed_to_direct_per_cpu_s": ratio(relayed.mb_per_cpu_s, direct.mb_per_cpu_s),
        "direct_round_trip_ms": spread(direct.hop_ms),
        "relayed_round_trip_ms": spread(relayed.hop_ms),
        "direct_connect_ms": round(direct_ms, 2),
        "relayed_connect_ms": round(relayed_ms, 2),
    }


async def timed(once: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """Milliseconds of a call, and its result."""
    start = time.perf_counter()
    result = await once()
    return (time.perf_counter() - start) * 1000, result


def ratio(values: list[float], base: list[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(v / b for v, b in zip(values, base, strict=True)), 3)


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hops", type=int, default=300, help="round trips in each round")
    parser.add_argument("--mib", type=int, default=512, help="bulk bytes in each round, in MiB")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs="+", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        directory, *relay = options.serve
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve_far(directory, *relay) if relay else serve_relay(directory))
        return
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        command = [sys.executable, __file__, "--serve", directory]

        def start(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
            server = stack.enter_context(
                subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(server.kill)
            assert server.stdout is not None
            return server, server.stdout.readline().split()

        relay, (relay_address,) = start()
        far, (direct, relayed) = start(relay_address)
        pids = [relay.pid, far.pid]
        figures = uvloop.run(measure((direct, relayed), pids, directory, options))
    finish(figures, options.out)


if __name__ == "__main__":
    main()
