"""Hole punching between two hosts behind NAT boxes, in network namespaces; needs root and nftables.

Measured are, for each pair of NATs, the seconds from the common start to a connection; the
throughput of a punched TCP connection against a plain one through the same two boxes, of which one
forwards a port for it, in alternation; and the throughput of QUIC on a punched path. For both
congestion controls of aioquic also that of QUIC on loopback, with datagrams of several sizes, and
with loss and delay in a user-space proxy. Both ends run in one process.

    python benchmarks/punch.py --out benchmarks/results/punch.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import uvloop

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "plugins")]

from benchmarks.report import finish, spread  # noqa: E402
from tests.support.nat.lab import Host, lab  # noqa: E402
from tests.support.nat.namespaces import nft  # noqa: E402
from tests.support.nat.paths import Weather, connected, paths  # noqa: E402
from tests.support.nat.sessions import HIGHER, LOWER, Pair, Secured, pair  # noqa: E402
from tests.support.nodes import wait_for  # noqa: E402

PAIRS: Final = (
    ("portrestricted", "portrestricted"),
    ("fullcone", "portrestricted"),
    ("fullcone", "symmetric"),
    ("portrestricted", "symmetric"),
)
TCP_BYTES: Final = 500_000_000
TCP_ROUNDS: Final = 4
"For each of the rounds elsewhere: processors of a shared machine are not always there."
QUIC_BYTES: Final = 20_000_000
LOSSY_BYTES: Final = 3_000_000
FORWARDED: Final = 9000


def connect_times(rounds: int) -> dict[str, Any]:
    """Seconds to connect, by the pair of NATs."""
    found: dict[str, Any] = {}
    for a, b in PAIRS:
        took: list[float] = []
        leg = ""
        for _ in range(rounds):
            with lab() as net, pair(net, net.place(a), net.place(b)) as both:
                leg = both.run()[0].said
                took.append(max(each.took_s for each in both.outcome(leg) if each.ok))
        found[f"{a} and {b}"] = {"leg": leg, "seconds": spread(took)}
    return found


def megabytes_per_s(both: Pair, sender: Secured, receiver: Secured, count: int) -> float:
    """Throughput from the first end to the second."""
    both.ends[1].run(_expect(receiver, count))
    began = time.perf_counter()
    both.ends[0].start(sender.send(count))
    both.ends[1].run(receiver.complete.wait(), 120)
    return count / (time.perf_counter() - began) / 1e6


async def _expect(receiver: Secured, count: int) -> None:
    receiver.wanted = receiver.received + count
    receiver.complete.clear()


@contextmanager
def plain(both: Pair, two: Host) -> Iterator[tuple[Secured, Secured]]:
    """A TCP connection to the second host, whose box forwards a port to it."""
    if two.nat is None:
        raise ValueError("the second host must be behind a NAT")
    rule = f"iifname wan tcp dport {FORWARDED} dnat ip to {two.address}:{FORWARDED};"
    chain = f"chain pre {{ type nat hook prerouting priority dstnat - 10; {rule} }}"
    nft(two.nat.namespace, f"table ip forwarding {{\n{chain}\n}}\n")
    ends: list[Secured] = []

    async def listen() -> asyncio.Server:
        def make() -> Secured:
            ends.append(Secured(HIGHER))
            return ends[-1]

        return await asyncio.get_running_loop().create_server(make, two.address, FORWARDED)

    async def dial(host: str) -> Secured:
        loop = asyncio.get_running_loop()
        _, end = await loop.create_connection(lambda: Secured(LOWER), host, FORWARDED)
        await end.hello
        return end

    server = both.ends[1].run(listen())
    sender = both.ends[0].run(dial(two.public))
    try:
        yield sender, ends[0]
    finally:
        both.ends[0].run(_abort(sender))
        both.ends[1].loop.call_soon_threadsafe(server.close)
        time.sleep(0.1)


async def _abort(end: Secured) -> None:
    end.transport.abort()
    await asyncio.sleep(0.05)


def punched_tcp(rounds: int) -> dict[str, Any]:
    """Punched and plain TCP through the same boxes."""
    punched: list[float] = []
    direct: list[float] = []
    with lab() as net:
        two = net.place("portrestricted")
        with pair(net, net.place("portrestricted"), two) as both:
            both.run()
            ends = [around.port.secured["punched"] for around in both.arounds]
            with plain(both, two) as others:
                runs = [(punched, ends[0], ends[1]), (direct, *others)]
                for _ in range(TCP_ROUNDS * rounds):
                    for found, sender, receiver in runs:
                        found.append(megabytes_per_s(both, sender, receiver, TCP_BYTES))
                    runs.reverse()  # neither is always the first
    return {
        "punched_mb_s": spread(punched),
        "plain_mb_s": spread(direct),
        "ratio": round(statistics.median(punched) / statistics.median(direct), 3),
        "ratio_of_best": round(max(punched) / max(direct), 3),
    }


def punched_quic(rounds: int) -> dict[str, Any]:
    """QUIC through a full cone and a symmetric box, whose cables carry 1,500 bytes."""
    with lab() as net, pair(net, net.place("fullcone"), net.place("symmetric")) as both:
        both.run()
        ends = both.arounds[0].port.secured["quic"], both.arounds[1].port.secured["quic"]
        found = [megabytes_per_s(both, *ends, QUIC_BYTES) for _ in range(rounds)]
    return {"mb_s": spread(found)}


async def quic_on_loopback(
    congestion: str, count: int, datagram_bytes: int, weather: Weather | None
) -> dict[str, float]:
    """Throughput of one transfer, and megabytes per CPU-second of both ends."""
    async with paths(weather) as ends:
        one, other = await connected(
            ends, datagram_bytes=datagram_bytes, rtt_s=0.02, congestion=congestion
        )
        began, cpu = time.perf_counter(), time.process_time()
        await one.send(bytes(count))
        await wait_for(lambda: len(other.received) >= count, 120, every_s=0.001)
        return {
            "mb_s": count / (time.perf_counter() - began) / 1e6,
            "mb_per_cpu_s": count / (time.process_time() - cpu) / 1e6,
        }


def congestion(rounds: int) -> dict[str, Any]:
    """Both congestion controls on a clean path, and on one with loss and delay."""
    cases: dict[str, tuple[int, int, dict[str, float]]] = {
        "1200 bytes": (QUIC_BYTES, 1200, {}),
        "1472 bytes": (QUIC_BYTES, 1472, {}),
        "8972 bytes": (QUIC_BYTES, 8972, {}),
        "1472 bytes, 20 ms, 0.1 % loss": (LOSSY_BYTES, 1472, {"delay_s": 0.01, "loss": 0.001}),
        "1472 bytes, 20 ms, 1 % loss": (LOSSY_BYTES, 1472, {"delay_s": 0.01, "loss": 0.01}),
    }
    found: dict[str, Any] = {}
    for name, (count, size, settings) in cases.items():
        runs: dict[str, list[dict[str, float]]] = {"reno": [], "cubic": []}
        for n in range(rounds):
            for control, results in runs.items():
                weather = Weather(seed=n, **settings) if settings else None  # type: ignore[arg-type]
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    results.append(runner.run(quic_on_loopback(control, count, size, weather)))
        found[name] = {
            control: {key: spread([run[key] for run in results]) for key in results[0]}
            for control, results in runs.items()
        }
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    figures = {
        "connect": connect_times(args.rounds),
        "tcp": punched_tcp(args.rounds),
        "quic_punched": punched_quic(args.rounds),
        "quic": congestion(3),
    }
    finish({"punch": figures}, args.out)


if __name__ == "__main__":
    main()
