"""The tracker against Debian's opentracker and npm's bittorrent-tracker, and its memory.

    python -m benchmarks.tracker --out results/tracker.json --node-tracker DIR

All servers run on processor 0, with swarms that were filled before, and the load on processor 1: in
rounds, one kind of load and one server after the other. What counts is replies per second of the
server's processor time, because the load generator, or other work on the machine, may limit replies
per second. The ratios are medians of the rounds' ratios. Latency is that of announces at half the
rate that aitorrentd reached on open connections, over several of them. On a busy machine it would
be that of the scheduler, and is left out. Run it with Debian's Python, which the package uses: the
interpreter is the bound, and others may be slower.

It needs wrk, gcc, opentracker (Debian packages) and node; DIR is where this was run:
`npm install --ignore-scripts --omit=optional bittorrent-tracker@11.2.3`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.report import ROOT, finish, spread

LOAD: Final = ROOT / "benchmarks" / "tracker_load"
HASHES: Final = 1000
PORTS: Final = 200
"Peers of each info-hash, half of them seeds; a client gets 50."
CONNECTIONS: Final = 32
FILL_S: Final = 4.0
BUSY: Final = 3.0
"Load from which on latency is not measured; the benchmark itself is two."
PACED: Final = 8
"Connections over which latency is measured."
TICKS: Final = os.sysconf("SC_CLK_TCK")
OTHERS: Final = (
    *("transport", "discovery", "nat", "dht", "inference", "ollama", "openai", "shards"),
    *("seeding", "hub", "catalogue"),
)
NODE_SERVER: Final = """
import Server from 'PATH/node_modules/bittorrent-tracker/server.js'
const server = new Server({ udp: true, http: true, ws: false, stats: false })
server.on('error', () => {}); server.on('warning', () => {})
server.listen(Number(process.argv[2]), '127.0.0.1')
"""


def info_hash(number: int) -> bytes:
    """As the load generators make it."""
    first = number * 2654435761 % 2**32
    return first.to_bytes(4, "big") + number.to_bytes(4, "big") + bytes(12)


class Server:
    """A tracker as a process on processor 0."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(
            ["taskset", "-c", "0", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        until = time.monotonic() + 60
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} does not start")
            time.sleep(0.05)
        time.sleep(0.5)

    def cpu_s(self) -> float:
        """Processor time so far."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / TICKS

    def rss_bytes(self) -> int:
        """Resident memory."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that is free for TCP now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def running(command: Callable[[int, Path], Sequence[str]]) -> Iterator[Server]:
    """A server in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="trk-", dir="/tmp"))
    directory.chmod(0o755)  # opentracker runs as nobody
    port = free_port()
    try:
        server = Server(command(port, directory), port)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def ours(port: int, directory: Path) -> Sequence[str]:
    """A whole daemon whose only plugin is the tracker, on all addresses as by default."""
    plugins: dict[str, Any] = {name: {"enabled": False} for name in OTHERS}
    plugins["tracker"] = {"enabled": True, "port": port, "open": True}
    file = directory / "aitorrent.yaml"
    file.write_text(yaml.safe_dump({"plugins": plugins}))
    state = str(directory / "state")
    return [sys.executable, "-m", "aitorrentd.main", "--config", str(file), "--state-dir", state]


def opentracker(port: int, directory: Path) -> Sequence[str]:
    """Debian's, which serves a list of info-hashes only."""
    listed = directory / "listed"
    listed.write_text("".join(f"{info_hash(n).hex()}\n" for n in range(HASHES)))
    return [
        *("opentracker", "-i", "127.0.0.1", "-p", str(port), "-P", str(port)),
        *("-d", str(directory), "-w", "listed"),
    ]


def node_of(folder: Path) -> Callable[[int, Path], Sequence[str]]:
    """npm's bittorrent-tracker, installed in `folder`."""

    def command(port: int, directory: Path) -> Sequence[str]:
        file = directory / "server.mjs"
        file.write_text(NODE_SERVER.replace("PATH", str(folder.resolve())))
        return ["node", str(file), str(port)]

    return command


def on_the_other_processor(*words: str) -> str:
    """What a load generator prints."""
    command = ["taskset", "-c", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr or done.stdout}")
    return done.stdout


def http_load(port: int, seconds: float, kind: str) -> int:
    """Replies to announces; `kind` is `keep-alive` or `close`."""
    printed = on_the_other_processor(
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(LOAD / "announce.lua")),
        *(f"http://127.0.0.1:{port}", "--", str(HASHES), str(PORTS), kind),
    )
    found = re.search(r"(\d+) requests in", printed)
    if found is None or "Non-2xx" in printed:
        raise RuntimeError(printed)
    return int(found[1])


def udp_load(program: Path, port: int, seconds: float) -> int:
    """Replies to announces."""
    words = (str(port), f"{seconds:g}", str(HASHES), str(PORTS))
    return int(on_the_other_processor(str(program), *words).split()[0])


def fill(program: Path, port: int) -> None:
    """Announce most peers once."""
    udp_load(program, port, FILL_S)


def latency(program: Path, paced: Path, rate: float) -> dict[str, float]:
    """Milliseconds from when an announce over HTTP is due to its reply."""
    with running(ours) as server:
        fill(program, server.port)
        words = (str(paced), str(server.port), "10", f"{rate:.0f}", str(PACED))
        printed = on_the_other_processor(*words, str(HASHES), str(PORTS))
    p50, p99, most = (round(float(us) / 1000, 2) for us in printed.split())
    return {
        "connections": PACED,
        "per_s": round(rate),
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": most,
    }


def measured(server: Server, load: Callable[[], int]) -> dict[str, float]:
    """Replies per second of the server's processor, and per second."""
    cpu_s, start = server.cpu_s(), time.monotonic()
    replies = load()
    spent_s, wall_s = server.cpu_s() - cpu_s, time.monotonic() - start
    return {"per_cpu_s": replies / spent_s, "per_s": replies / wall_s}


def memory(program: Path) -> dict[str, float]:
    """Resident memory without peers, and what a peer takes of it."""
    with running(ours) as server:
        on_the_other_processor(str(program), str(server.port), "1", "1", "1")
        empty = server.rss_bytes()
        words = (str(program), str(server.port), "0", "1000", "1000")
        peers = int(on_the_other_processor(*words).split()[0])
        full = server.rss_bytes()
    return {
        "empty_mb": round(empty / 1e6, 1),
        "peers": peers,
        "full_mb": round(full / 1e6, 1),
        "bytes_per_peer": round((full - empty) / peers, 1),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--node-tracker", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    servers: dict[str, Callable[[int, Path], Sequence[str]]] = {"aitorrentd": ours}
    if shutil.which("opentracker"):
        servers["opentracker"] = opentracker
    if options.node_tracker:
        servers["bittorrent-tracker"] = node_of(options.node_tracker)
    with tempfile.TemporaryDirectory() as folder:
        program, paced = Path(folder) / "udp", Path(folder) / "paced"
        for built in (program, paced):
            source = str(LOAD / f"{built.name}.c")
            subprocess.run(["gcc", "-O2", "-o", str(built), source], check=True)
        figures = _figures(servers, program, options.rounds, options.seconds)
        if os.getloadavg()[0] < BUSY:
            rate = figures["keep-alive"]["aitorrentd"]["per_s"]["median"] / 2
            figures["latency"] = latency(program, paced, rate)
        figures["memory"] = memory(program)
    finish(figures, options.out)


def _figures(
    servers: dict[str, Callable[[int, Path], Sequence[str]]],
    program: Path,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    loads: dict[str, Callable[[int], int]] = {
        "keep-alive": lambda port: http_load(port, seconds, "keep-alive"),
        "close": lambda port: http_load(port, seconds, "close"),
        "udp": lambda port: udp_load(program, port, seconds),
    }
    results: dict[str, dict[str, list[dict[str, float]]]] = {kind: {} for kind in loads}
    with ExitStack() as stack:
        started = {name: stack.enter_context(running(run)) for name, run in servers.items()}
        for server in started.values():
            fill(program, server.port)
        for _, (kind, load) in product(range(rounds), loads.items()):
            for name, server in started.items():
                if kind == "keep-alive" and name == "opentracker":
                    continue  # Debian's closes every connection
                row = measured(server, partial(load, server.port))
                results[kind].setdefault(name, []).append(row)
    figures: dict[str, Any] = {"rounds": rounds, "seconds": seconds}
    for kind, rows in results.items():
        figures[kind] = {
            name: {key: spread([row[key] for row in some]) for key in ("per_cpu_s", "per_s")}
            for name, some in rows.items()
        }
        for name in rows.keys() - {"aitorrentd"}:
            pairs = zip(rows["aitorrentd"], rows[name], strict=True)
            ratios = [own["per_cpu_s"] / other["per_cpu_s"] for own, other in pairs]
            figures[kind][f"ratio to {name}"] = round(statistics.median(ratios), 2)
    return figures


if __name__ == "__main__":
    main()
