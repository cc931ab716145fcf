"""Measures the speed of the control API and of `aitorrentctl`.

    python -m benchmarks.control [--seconds 1.0] [--runs 5] [--json FILE]

Calls per second between two processes on one Unix socket, with the real server under uvloop and the
blocking client, and with a whole daemon; next to two baselines in the same run: a bare echo of the
same bytes over blocking sockets (the kernel's limit) and over asyncio streams (a typical asyncio
server). Everything runs twice, in turn: scheduled by the kernel on all processors, and pinned to
one, where no process waits for another processor to wake up. Then the wall time of whole
`aitorrentctl` processes, next to that of a bare Python. Prints medians over the runs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import uvloop
from pydantic import BaseModel

from aitorrentd.api.plugin import CallContext, Method, NoParams
from aitorrentd.control import framing
from aitorrentd.control.aclient import AsyncClient
from aitorrentd.control.client import Client
from aitorrentd.control.server import ControlServer
from aitorrentd.errors import MethodNotFound
from benchmarks.report import finish, machine, spread

PIPELINE = 64
BASE = "echo, asyncio streams, uvloop (baseline)"


class Pong(BaseModel):
    """The answer to a ping."""

    pong: bool


def ping(call: CallContext, params: NoParams) -> dict[str, Any]:
    """Answers at once."""
    return {"pong": True}


async def later(call: CallContext, params: NoParams) -> dict[str, Any]:
    """Answers from a task."""
    return {"pong": True}


async def count(call: CallContext, params: NoParams) -> Any:
    """A stream that never ends."""
    n = 0
    while True:
        yield {"n": n}
        n += 1


class Source:
    """The measured methods."""

    def __init__(self) -> None:
        found = [
            Method("rpc.ping", ping, "Ping.", result=Pong),
            Method("rpc.later", later, "Ping in a task.", result=Pong),
            Method("rpc.count", count, "Count.", stream=True),
        ]
        self.methods = {m.name: m for m in found}

    def method(self, name: str) -> tuple[str, Method]:
        """As the kernel."""
        if name not in self.methods:
            raise MethodNotFound(name)
        return "rpc", self.methods[name]


def serve_control(path: str, ready: Event) -> None:
    """The server process."""

    async def run() -> None:
        server = ControlServer(Source(), agent="aitorrentd/benchmark")
        await server.listen(Path(path))
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(run())


def serve_streams(path: str, ready: Event) -> None:
    """Baseline: an echo of length-prefixed frames over asyncio streams, under uvloop."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(head, "big"))
                writer.write(head + body)
        except asyncio.IncompleteReadError:
            writer.close()

    async def run() -> None:
        await asyncio.start_unix_server(handle, path)
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(run())


def serve_blocking(path: str, ready: Event) -> None:
    """Baseline: an echo over blocking sockets."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    ready.set()
    while True:
        sock, _ = listener.accept()
        while chunk := sock.recv(65_536):
            sock.sendall(chunk)
        sock.close()


def rate(step: Callable[[], object], seconds: float) -> float:
    """Steps per second."""
    done, start = 0, time.perf_counter()
    while (took := time.perf_counter() - start) < seconds:
        for _ in range(100):
            step()
        done += 100
    return done / took


def echo_rate(path: str, seconds: float) -> float:
    """Round trips per second of a ping's bytes through an echo server."""
    frame = framing.encode(framing.CALL, 1, "rpc.ping", {}, {"deadline_s": 30.0})
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)

        def step() -> None:
            sock.sendall(frame)
            got = 0
            while got < len(frame):
                got += len(sock.recv(65_536))

        return rate(step, seconds)


def call_rate(path: str, method: str, seconds: float) -> float:
    """Sequential calls per second on one connection."""
    with Client(path) as client:
        return rate(lambda: client.call(method), seconds)


def item_rate(path: str, seconds: float) -> float:
    """Items per second of one stream."""
    with Client(path) as client, client.stream("rpc.count", credit=1024) as items:
        return rate(lambda: next(items), seconds)


def connect_rate(path: str, seconds: float) -> float:
    """Connections per second, each with hello and one call."""

    def step() -> None:
        with Client(path) as client:
            client.call("rpc.ping")

    return rate(step, seconds)


def pipelined_rate(path: str, seconds: float) -> float:
    """Calls per second with 64 in flight on one connection."""

    async def run() -> float:
        async with await AsyncClient.connect(path) as client:
            done, start = 0, time.perf_counter()
            while (took := time.perf_counter() - start) < seconds:
                await asyncio.gather(*(client.call("rpc.ping") for _ in range(PIPELINE)))
                done += PIPELINE
            return done / took

    return uvloop.run(run())


def ctl(*args: str) -> list[str]:
    """The command line of an `aitorrentctl` process."""
    return [
        sys.executable,
        "-c",
        "import sys; from aitorrentd.cli.main import main; sys.exit(main())",
        *args,
    ]


@contextmanager
def running_daemon(folder: str) -> Iterator[str]:
    """A daemon with its plugins on a free loopback port; yields its control socket."""
    config, state = Path(folder, "aitorrent.yaml"), Path(folder, "state")
    config.write_text('{"plugins": {"transport": {"listen": "127.0.0.1", "port": 0}}}')
    command = [sys.executable, "-m", "aitorrentd.main", "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--state-dir", str(state), "--log-level", "error"], stdout=subprocess.DEVNULL
    )
    path = str(state / "run" / "control.sock")
    try:
        subprocess.run(
            ctl("--socket", path, "wait", "--timeout", "60"),
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=90,
        )
        yield path
    finally:
        process.terminate()
        process.wait(30)


def start_ms(command: list[str]) -> float:
    """Wall time of a whole process in milliseconds."""
    start = time.perf_counter()
    # Without a timeout: waiting with one polls, and rounds up to as much as 50 ms.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def measure_starts(daemon: str, runs: int) -> dict[str, list[float]]:
    """Start-up times, interleaved."""
    commands = {
        "python -c pass (baseline)": [sys.executable, "-c", "pass"],
        "aitorrentctl --version": ctl("--version"),
        "aitorrentctl status": ctl("--socket", daemon, "status"),
        "aitorrentctl --help": ctl("--help"),
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            found[name].append(start_ms(command))
    return found


@contextmanager
def placed(cpus: set[int]) -> Iterator[None]:
    """This process, and those it starts meanwhile, run on `cpus`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def placements() -> dict[str, set[int]]:
    """The processor sets to run on, by label."""
    cpus = os.sched_getaffinity(0)
    found = {f"placed by the kernel on {len(cpus)} processors": cpus} if len(cpus) > 1 else {}
    return {**found, "on one processor": {min(cpus)}}


@contextmanager
def servers(folder: str) -> Iterator[dict[str, str]]:
    """A daemon and the servers alone; yields their sockets by name."""
    targets = {"control": serve_control, "streams": serve_streams, "blocking": serve_blocking}
    paths = {name: f"{folder}/{name}" for name in targets}
    with running_daemon(folder) as daemon:
        processes = []
        try:
            for name, target in targets.items():
                ready = multiprocessing.Event()
                process = multiprocessing.Process(
                    target=target, args=(paths[name], ready), daemon=True
                )
                process.start()
                processes.append(process)
                if not ready.wait(20):
                    raise TimeoutError(f"{name} does not start")
            yield {**paths, "daemon": daemon}
        finally:
            for process in processes:
                process.terminate()
                process.join(5)


def rates(paths: dict[str, str], seconds: float) -> dict[str, Callable[[], float]]:
    """What is measured, by its name."""
    control, daemon = paths["control"], paths["daemon"]
    return {
        "echo, blocking sockets (baseline)": lambda: echo_rate(paths["blocking"], seconds),
        BASE: lambda: echo_rate(paths["streams"], seconds),
        "calls, sequential, to a whole daemon": lambda: call_rate(daemon, "rpc.ping", seconds),
        "calls, sequential": lambda: call_rate(control, "rpc.ping", seconds),
        "calls, sequential, coroutine handler": lambda: call_rate(control, "rpc.later", seconds),
        f"calls, {PIPELINE} pipelined, asyncio client": lambda: pipelined_rate(control, seconds),
        "stream items": lambda: item_rate(control, seconds),
        "connect, hello, call, close": lambda: connect_rate(control, seconds),
    }


Rates = dict[str, dict[str, list[float]]]
"By placement, then by name."


def measure(seconds: float, runs: int) -> tuple[Rates, dict[str, list[float]]]:
    """Every rate and start, `runs` times, interleaved so that noise affects all of them alike."""
    with ExitStack() as stack:
        figures, daemons = {}, []
        for place, cpus in placements().items():
            with placed(cpus):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                paths = stack.enter_context(servers(folder))
            figures[place] = rates(paths, seconds)
            daemons.append(paths["daemon"])
        found: Rates = {place: {name: [] for name in named} for place, named in figures.items()}
        for _ in range(runs):
            for place, named in figures.items():
                with placed(placements()[place]):
                    for name, figure in named.items():
                        found[place][name].append(figure())
        return found, measure_starts(daemons[0], 4 * runs)


def with_ratios(found: dict[str, list[float]]) -> dict[str, Any]:
    """Each rate's spread, the ratio of its median to the baseline's, and its runs."""
    base = statistics.median(found[BASE])
    return {
        name: {
            **{key: round(value) for key, value in spread(values).items()},
            "ratio": round(statistics.median(values) / base, 2),
            "runs": [round(value) for value in values],
        }
        for name, values in found.items()
    }


def main() -> None:
    """Measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    before = machine()
    found, starts = measure(args.seconds, args.runs)
    report = {place: with_ratios(named) for place, named in found.items()}
    for place, named in report.items():
        print(f"{'per second, ' + place:44} {'median':>10} {'low':>10} {'ratio':>6}")
        for name, row in named.items():
            print(f"{name:44} {row['median']:10,} {row['min']:10,} {row['ratio']:6.2f}")
    print(f"{'milliseconds, median of ' + str(4 * args.runs):44} {'median':>10} {'high':>10}")
    for name, values in starts.items():
        print(f"{name:44} {statistics.median(values):10.0f} {max(values):10.0f}")
    finish(
        {
            "machine": before,
            "per_second": report,
            "starts_ms": {name: spread(values) for name, values in starts.items()},
        },
        args.json,
    )


if __name__ == "__main__":
    main()
