"""Many nodes of one DHT in several processes, and lookups through them within a time limit.

A process gets one order as a line of JSON and answers with one; see `dht_rivals.py`. Nothing waits
longer than it may: a DHT that is too slow for the machine leaves what was measured until then.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
NAMES: Final = [f"name {i}" for i in range(50)]


class OutOfTime(Exception):
    """A phase took longer than it may."""


class Fleet:
    """`nodes` nodes of one kind on loopback, `per_process` in a process, from `port` upwards."""

    def __init__(self, command: Sequence[str], per_process: int, port: int) -> None:
        self.port = port
        self.alive: list[int] = []
        self._command = list(command)
        self._per_process = per_process
        self._processes: list[subprocess.Popen[bytes]] = []
        self._deadline = 0.0
        self._buffers: dict[int, bytearray] = {}
        self._owed: Counter[int] = Counter()

    def limit(self, seconds: float) -> None:
        """Raise `OutOfTime` from whatever waits longer than `seconds` from now."""
        self._deadline = time.perf_counter() + seconds

    def start(self, nodes: int) -> None:
        """Start the nodes, one process after the other; the first has the node to join through."""
        for first in range(0, nodes, self._per_process):
            count = min(self._per_process, nodes - first)
            more = [str(self.port)] if first else []
            process = subprocess.Popen(
                [*self._command, str(self.port + first), str(count), *more],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # rivals log each silent node
                cwd=ROOT,
                bufsize=0,
            )
            self._processes.append(process)
            self._read(process)
            self.alive += range(first, first + count)

    def _read(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        buffer = self._buffers.setdefault(process.pid, bytearray())
        while b"\n" not in buffer:
            left_s = self._deadline - time.perf_counter()
            if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
                self._owed[process.pid] += 1
                raise OutOfTime
            part = os.read(process.stdout.fileno(), 65_536)
            if not part:
                raise RuntimeError(f"{self._command} ended")
            buffer += part
        line, _, rest = bytes(buffer).partition(b"\n")
        buffer[:] = rest
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, node: int, op: str, **more: Any) -> dict[str, Any]:
        """Let a node do something; its answer."""
        process = self._processes[node // self._per_process]
        while self._owed[process.pid]:  # answers that came too late
            self._owed[process.pid] -= 1
            self._read(process)
        order = {"op": op, "node": node % self._per_process, **more}
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        return self._read(process)

    def kill(self, share: float) -> float:
        """SIGKILL processes, but not the first; returns the share of nodes that died."""
        before = len(self.alive)
        for i in random.sample(range(1, len(self._processes)), round(share * len(self._processes))):
            self._processes[i].kill()
            self._processes[i].wait()
            self.alive = [n for n in self.alive if n // self._per_process != i]
        return 1 - len(self.alive) / before

    def cpu_s(self) -> float:
        """CPU time of all living processes."""
        total = 0.0
        for process in self._processes:
            if process.returncode is None:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.kill()
            process.wait()

    # Phases

    def put_all(self) -> dict[str, Any]:
        """Publish every name from a random node."""
        took, stored = [], 0
        for name in NAMES:
            try:
                answer = self.tell(random.choice(self.alive), "put", name=name)
            except OutOfTime:
                break
            took.append(answer["took_s"] * 1000)
            stored += answer["found"]
        return {"stored": f"{stored} of {len(NAMES)}", **_times(took)}

    def look_up(self, count: int, so_far: Lookups) -> Lookups:
        """`count` more lookups from random living nodes, one after the other.

        Raises:
            OutOfTime: the limit is reached; those made until then are in `so_far`.
        """
        cpu_s = self.cpu_s()
        try:
            for _ in range(count):
                name = NAMES[len(so_far.took_ms) % len(NAMES)]
                answer = self.tell(random.choice(self.alive), "get", name=name)
                so_far.took_ms.append(answer["took_s"] * 1000)
                so_far.sent.append(answer["sent"])
                so_far.found += answer["found"]
        except OutOfTime:
            so_far.is_cut = True
            raise
        finally:
            so_far.cpu_s += self.cpu_s() - cpu_s
        return so_far


@dataclass(slots=True)
class Lookups:
    """Lookups that were made."""

    took_ms: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    found: int = 0
    cpu_s: float = 0.0
    "Of all processes of the DHT while they were made."
    is_cut: bool = False
    "Whether there was no time for more."

    def figures(self) -> dict[str, Any]:
        """What they came to."""
        count = len(self.took_ms)
        figures: dict[str, Any] = {"found": f"{self.found} of {count}", **_times(self.took_ms)}
        if self.is_cut:
            figures["out_of_time_after"] = count
        if count:
            figures["requests_mean"] = round(sum(self.sent) / count, 1)
            figures["cpu_ms_mean"] = round(self.cpu_s * 1000 / count, 1)
        return figures


def _times(took_ms: list[float]) -> dict[str, float]:
    if not took_ms:
        return {}
    took_ms = sorted(took_ms)
    return {
        "median_ms": round(took_ms[len(took_ms) // 2], 2),
        "p95_ms": round(took_ms[int(len(took_ms) * 0.95)], 2),
    }
