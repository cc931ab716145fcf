"""The DHT against `kademlia` and py-ipv8's: lookups over sockets, and what a node costs.

    python -m benchmarks.dht --out results/dht.json --rivals /path/to/python
    python -m benchmarks.dht --nodes 40 --lookups 40 --simulated 500        # a quick look

Each DHT runs the same way: `--nodes` nodes on loopback, `--per-process` in a process (300 processes
would fill the memory of a small machine), 50 values put, then lookups from random nodes, one after
the other, before and after SIGKILL ends 30 % of the processes. `--rivals` names a Python that has
kademlia 2.2.3 and pyipv8 installed; the product needs neither.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nacl.signing import SigningKey

HERE: Final = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "plugins")]

from aitorrent_dht.core.contact import contact_of  # noqa: E402
from aitorrent_dht.core.state import Outgoing, Tuning, id_bytes  # noqa: E402
from aitorrent_dht.wire.codec import Codec  # noqa: E402
from aitorrent_dht.wire.messages import Query, Request  # noqa: E402
from benchmarks.report import finish  # noqa: E402
from tests.support.dht.universe import SimNode, Universe  # noqa: E402
from tests.support.dht.wired import Wired  # noqa: E402

NAMES: Final = [f"name {i}" for i in range(50)]
KILLED: Final = 0.3
HEADERS_BYTES: Final = 28
"IPv4 and UDP."
BASE_PORT: Final = 21_000


class Fleet:
    """Nodes of one kind in several processes."""

    def __init__(self, command: Sequence[str], nodes: int, per_process: int, port: int) -> None:
        self._command = list(command)
        self._port = port
        self._per_process = per_process
        self._processes: list[subprocess.Popen[str]] = []
        for first in range(0, nodes, per_process):
            count = min(per_process, nodes - first)
            more = [str(port)] if first else []
            process = subprocess.Popen(
                [*command, str(port + first), str(count), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # rivals log each silent node
                text=True,
                cwd=HERE.parent,
            )
            self._processes.append(process)
            self._read(process)
        self.alive = list(range(nodes))

    def _read(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        if process.stdout is None or not (line := process.stdout.readline()):
            raise RuntimeError(f"{self._command} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, node: int, op: str, **more: Any) -> dict[str, Any]:
        """Let a node do something; its answer."""
        process = self._processes[node // self._per_process]
        order = {"op": op, "node": node % self._per_process, **more}
        if process.stdin is None:
            raise RuntimeError("no pipe")
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        return self._read(process)

    def kill(self, share: float) -> float:
        """SIGKILL processes, but not the first; returns the share of nodes that died."""
        before = len(self.alive)
        for i in random.sample(range(1, len(self._processes)), round(share * len(self._processes))):
            self._processes[i].kill()
            self._processes[i].wait()
            self.alive = [n for n in self.alive if n // self._per_process != i]
        return 1 - len(self.alive) / before

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.kill()
            process.wait()


def lookups(fleet: Fleet, count: int) -> dict[str, Any]:
    """`count` lookups from random living nodes, one after the other."""
    took: list[float] = []
    sent, found = [], 0
    for i in range(count):
        answer = fleet.tell(random.choice(fleet.alive), "get", name=NAMES[i % len(NAMES)])
        took.append(answer["took_s"] * 1000)
        sent.append(answer["sent"])
        found += answer["found"]
    took.sort()
    return {
        "found": f"{found} of {count}",
        "median_ms": round(took[count // 2], 2),
        "p95_ms": round(took[int(count * 0.95)], 2),
        "requests_mean": round(sum(sent) / count, 1),
    }


def over_sockets(command: Sequence[str], args: argparse.Namespace, port: int) -> dict[str, Any]:
    """One DHT, whole and with 30 % of its nodes killed."""
    started = time.perf_counter()
    fleet = Fleet(command, args.nodes, args.per_process, port)
    try:
        if "ipv8" in command:
            for node in fleet.alive:
                ports = [port + n for n in random.sample(fleet.alive, min(20, args.nodes))]
                fleet.tell(node, "settle", ports=ports)
            time.sleep(2.0)
        build_s = time.perf_counter() - started
        puts = [fleet.tell(random.choice(fleet.alive), "put", name=name) for name in NAMES]
        whole = lookups(fleet, args.lookups)
        share = fleet.kill(KILLED)
        return {
            "build_s": round(build_s, 1),
            "put_median_ms": round(sorted(p["took_s"] * 1000 for p in puts)[len(puts) // 2], 2),
            "whole": whole,
            "killed": {"share": round(share, 2), **lookups(fleet, args.lookups)},
        }
    finally:
        fleet.close()


def cpu_ms() -> dict[str, float]:
    """CPU milliseconds for 1,000 requests that are verified and answered with 20 nodes."""
    node, peer = Wired(1), Wired(2)
    for i in range(200):
        where = f"9.{i}.1.1"
        node.node.state.table.seen(contact_of(i.to_bytes(32, "big"), where, 8468), 1.0)
    to = id_bytes(node.node.id)
    request = Request(Query.PING, b"t" * 16, peer.key, to=to)
    (pong,) = node.receive(peer.datagram(request, 400), peer.place)
    token = peer.codec.decode(pong.raw).token
    find = Request(Query.FIND, b"t" * 16, peer.key, to=to, token=token, key=bytes(20))
    raw = peer.datagram(find, 240)
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
        self._codec = Codec(bytes(32), lambda domain, message: key.sign(b"").signature, _yes)

    def _send(self, sim: SimNode, outgoing: Outgoing) -> None:
        self.bytes += HEADERS_BYTES + len(self._codec.encode(outgoing.message, outgoing.pad_bytes))
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
    started = time.perf_counter()
    universe = Universe(1)
    universe.grow(nodes, every_s=0.01)
    for name in NAMES[:20]:
        universe.put(universe.random.choice(universe.alive()), name)
    whole = universe.search(NAMES[:20], 200)
    for sim in universe.random.sample(universe.alive(), round(nodes * KILLED)):
        universe.kill(sim)
    dead = universe.search(NAMES[:20], 200)
    return {
        "nodes": nodes,
        "messages": universe.messages,
        "took_s": round(time.perf_counter() - started, 1),
        "whole": whole.text(),
        "killed": dead.text(),
    }


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--nodes", type=int, default=300)
    parser.add_argument("--per-process", type=int, default=20)
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--simulated", type=int, default=10_000)
    parser.add_argument("--rivals", help="a Python with kademlia and pyipv8")
    args = parser.parse_args()
    random.seed(1)
    commands = {"aitorrentd": [sys.executable, "-m", "benchmarks.dht_worker"]}
    if args.rivals:
        script = str(HERE / "dht_rivals.py")
        commands |= {kind: [args.rivals, script, kind] for kind in ("kademlia", "ipv8")}
    sockets = {
        name: over_sockets(command, args, BASE_PORT + 1000 * i)
        for i, (name, command) in enumerate(commands.items())
    }
    figures = {
        "nodes": args.nodes,
        "nodes_per_process": args.per_process,
        "sockets": sockets,
        "cpu_ms_per_1000_requests": cpu_ms(),
        "idle": idle_bytes(args.nodes),
        "simulation": simulated(args.simulated),
    }
    finish(figures, args.out)


if __name__ == "__main__":
    main()
