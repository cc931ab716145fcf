"""The DHT against `kademlia` and py-ipv8's: lookups over sockets, and what a node costs.

    python -m benchmarks.dht --out results/dht.json --rivals /path/to/python [--ipv8]
    python -m benchmarks.dht --nodes 40 --lookups 40 --simulated 500        # a quick look
    python -m benchmarks.dht --out results/dht.json --parts simulation      # the others stay

Each DHT runs the same way: `--nodes` nodes on loopback, `--per-process` in a process (300 processes
would fill the memory of a small machine), 50 values put, `--settle` seconds in which nodes may meet
others, then lookups from random nodes, one after the other, before and after SIGKILL ends 30 % of
the processes. This DHT and kademlia's run at the same time, in alternation. `--rivals` names a
Python that has kademlia 2.2.3 and pyipv8 installed; the product needs neither. Each figure is
printed and written as soon as it is known. A phase that takes too long ends with the lookups made
until then; py-ipv8's DHT, if it does not get ready in time, runs again with half as many nodes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from nacl.signing import SigningKey

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "plugins")]

from aitorrent_dht.core.contact import contact_of  # noqa: E402
from aitorrent_dht.core.state import Outgoing, Tuning, id_bytes  # noqa: E402
from aitorrent_dht.wire.codec import Codec  # noqa: E402
from aitorrent_dht.wire.messages import Query, Request  # noqa: E402
from benchmarks.dht_fleet import NAMES, Fleet, Lookups, OutOfTime  # noqa: E402
from benchmarks.report import machine  # noqa: E402
from tests.support.dht.universe import SimNode, Universe  # noqa: E402
from tests.support.dht.wired import Wired  # noqa: E402

KILLED: Final = 0.3
HEADERS_BYTES: Final = 28
"IPv4 and UDP."
BASE_PORT: Final = 21_000
SIMULATION_GC: Final = (100_000, 50, 1000)
"A million objects live until the end: looking through them often finds nothing."

START_S: Final = 600.0
"For the start of the nodes and the values, which no figure depends on."
PARTS: Final = ("cpu", "sockets", "ipv8", "idle", "simulation")
ROUND: Final = 20
"Lookups of one DHT before it is another one's turn."

Keep = Callable[[str, Any], None]
"Takes the name of a figure and the figure."
Of = Callable[[str], Keep]
"Where the figures of a DHT go."


def over_sockets(commands: Mapping[str, Sequence[str]], args: argparse.Namespace, of: Of) -> None:
    """Several DHTs at the same time, whole and with 30 % of the nodes killed.

    Lookups are made in rounds that alternate between them, so that other work on the machine slows
    all of them.
    """
    fleets = {
        name: Fleet(command, args.per_process, BASE_PORT + 1000 * number)
        for number, (name, command) in enumerate(commands.items())
    }
    try:
        for name, fleet in fleets.items():
            of(name)("nodes", args.nodes)
            fleet.limit(START_S)
            started = time.perf_counter()
            fleet.start(args.nodes)
            of(name)("build_s", round(time.perf_counter() - started, 1))
            of(name)("put", fleet.put_all())
        time.sleep(args.settle)
        of("")("load_at_lookups", round(os.getloadavg()[0], 1))
        for name, lookups in alternating(fleets, args).items():
            of(name)("whole", lookups.figures())
        shares = {name: round(fleet.kill(KILLED), 2) for name, fleet in fleets.items()}
        for name, lookups in alternating(fleets, args).items():
            of(name)("killed", {"share": shares[name], **lookups.figures()})
    finally:
        for fleet in fleets.values():
            fleet.close()


def alternating(fleets: Mapping[str, Fleet], args: argparse.Namespace) -> dict[str, Lookups]:
    """Lookups in rounds; a DHT that is out of its time makes no more."""
    made = {name: Lookups() for name in fleets}
    left_s = dict.fromkeys(fleets, args.limit)
    for i in range(-(-args.lookups // ROUND)):
        for name in sorted(fleets, reverse=bool(i % 2)):
            if made[name].is_cut:
                continue
            started = time.perf_counter()
            fleets[name].limit(left_s[name])
            with suppress(OutOfTime):
                fleets[name].look_up(ROUND, made[name])
            left_s[name] -= time.perf_counter() - started
    return made


def ipv8_alone(command: Sequence[str], args: argparse.Namespace, keep: Keep) -> None:
    """py-ipv8's DHT, which loads the machine most; smaller where the machine is too slow."""
    for nodes in (args.nodes, args.nodes // 2, args.nodes // 4):
        keep("nodes", nodes)
        fleet = Fleet(command, args.per_process, BASE_PORT)
        whole, dead = Lookups(), Lookups()
        try:
            fleet.limit(args.limit)
            started = time.perf_counter()
            fleet.start(nodes)
            settle(fleet)
            keep("build_s", round(time.perf_counter() - started, 1))
            fleet.limit(args.limit)
            keep("put", fleet.put_all())
            fleet.limit(args.limit)
            with suppress(OutOfTime):
                fleet.look_up(args.lookups, whole)
            if whole.is_cut and nodes > args.nodes // 4:
                keep(f"{nodes}_nodes", {"too_slow": whole.figures()})
                continue
            keep("whole", whole.figures())
            share = fleet.kill(KILLED)
            fleet.limit(args.limit)
            with suppress(OutOfTime):
                fleet.look_up(args.lookups, dead)
            keep("killed", {"share": round(share, 2), **dead.figures()})
            return
        except OutOfTime:
            keep(f"{nodes}_nodes", {"too_slow": f"not ready after {args.limit:.0f} s"})
        finally:
            fleet.close()


def settle(fleet: Fleet) -> None:
    """Let each node of py-ipv8 meet 20 others, as its walker would do over minutes."""
    for node in fleet.alive:
        ports = [fleet.port + n for n in random.sample(fleet.alive, min(20, len(fleet.alive)))]
        fleet.tell(node, "settle", ports=ports)
    time.sleep(2.0)


def cpu_ms() -> dict[str, float]:
    """CPU milliseconds for 1,000 requests of a known node, verified and answered with 20 nodes."""
    node, peer = Wired(1), Wired(2)
    for i in range(200):
        where = f"9.{i}.1.1"
        node.node.state.table.seen(contact_of(i.to_bytes(32, "big"), where, 8468), 1.0)
    to = id_bytes(node.node.id)
    request = Request(Query.PING, b"t" * 16, peer.key, to=to)
    (pong,) = node.receive(peer.datagram(request, 400), peer.place)
    token = peer.codec.decode(pong.raw).token
    find = Request(Query.FIND, b"t" * 16, peer.key, to=to, token=token, key=bytes(20))
    raw = peer.codec.encode(find, 240, recipient=node.key)
    figures = []
    now = 10.0
    for _ in range(5):
        started = time.process_time()
        for _ in range(1000):
            now += 0.01
            node.receive(raw, peer.place, now=now)
        figures.append((time.process_time() - started) * 1000)
    return {"median": round(sorted(figures)[2], 1)}


def _yes(*_: object) -> bool:
    return True


class WeighedUniverse(Universe):
    """Counts the bytes that the messages would have on the wire."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.bytes = 0
        key = SigningKey(bytes(32))
        self._codec = Codec(
            bytes(32),
            lambda domain, message: key.sign(b"").signature,
            _yes,
            lambda domain, key: bytes(32),
        )

    def _send(self, sim: SimNode, outgoing: Outgoing) -> None:
        raw = self._codec.encode(outgoing.message, outgoing.pad_bytes, recipient=outgoing.recipient)
        self.bytes += HEADERS_BYTES + len(raw)
        super()._send(sim, outgoing)


def idle_bytes(nodes: int) -> dict[str, Any]:
    """Bytes that a quiet node sends in an hour, two hours after it joined."""
    universe = WeighedUniverse(seed=1, tuning=Tuning())
    universe.grow(nodes)
    universe.run(7200.0)
    universe.bytes = universe.messages = 0
    universe.run(3600.0)
    return {
        "nodes": nodes,
        "bytes_per_node_and_hour": round(universe.bytes / nodes),
        "messages_per_node_and_hour": round(universe.messages / nodes, 1),
    }


def simulated(nodes: int) -> dict[str, Any]:
    """A large universe: how long it takes here, and how its lookups fare."""
    gc.set_threshold(*SIMULATION_GC)
    started = time.perf_counter()
    cpu_s = time.process_time()
    universe = Universe(1)
    universe.grow(nodes, every_s=0.01)
    for name in NAMES[:20]:
        universe.put(universe.random.choice(universe.alive()), name)
    whole = universe.search(NAMES[:20], 200, at_once=20)
    for sim in universe.random.sample(universe.alive(), round(nodes * KILLED)):
        universe.kill(sim)
    dead = universe.search(NAMES[:20], 200, at_once=20)
    return {
        "nodes": nodes,
        "messages": universe.messages,
        "took_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu_s, 1),
        "whole": whole.text(),
        "killed": dead.text(),
    }


class Results:
    """Figures by part, printed and written as soon as each is known."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._figures: dict[str, Any] = {}
        if out is not None and out.exists():
            self._figures = json.loads(out.read_text())
        self._figures["machine"] = machine()

    def part(self, *path: str) -> Keep:
        """Where a part keeps its figures."""

        def keep(name: str, value: Any) -> None:
            at = self._figures
            for step in path:
                at = at.setdefault(step, {})
            at[name] = value
            print(f"{'.'.join((*path, name))}: {json.dumps(value)}", flush=True)
            if self._out:
                self._out.write_text(json.dumps(self._figures, indent=2) + "\n")

        return keep


def main() -> None:
    """Run the parts, in the order in which they disturb the machine more and more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--per-process", type=int, default=15)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--simulated", type=int, default=10_000)
    parser.add_argument("--rivals", help="a Python with kademlia and pyipv8")
    parser.add_argument("--ipv8", action="store_true", help="run pyipv8 as well: some minutes")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to measure")
    parser.add_argument("--settle", type=float, default=150.0, help="seconds before the lookups")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds for one phase")
    args = parser.parse_args()
    random.seed(1)
    commands = {"aitorrentd": [sys.executable, "-m", "benchmarks.dht_worker"]}
    rival = [args.rivals, str(HERE / "dht_rivals.py")]
    if args.rivals:
        commands["kademlia"] = [*rival, "kademlia"]
    results = Results(args.out)
    keep = results.part()
    parts = args.parts.split(",")
    if "cpu" in parts:
        keep("cpu_ms_per_1000_requests", cpu_ms())
    if "sockets" in parts:
        keep("nodes_per_process", args.per_process)
        over_sockets(commands, args, lambda name: results.part("sockets", *filter(None, [name])))
    if "ipv8" in parts and args.rivals and args.ipv8:
        ipv8_alone([*rival, "ipv8"], args, results.part("sockets", "ipv8"))
    if "idle" in parts:
        keep("idle", idle_bytes(args.nodes))
    if "simulation" in parts and args.simulated:
        keep("simulation", simulated(args.simulated))


if __name__ == "__main__":
    main()
