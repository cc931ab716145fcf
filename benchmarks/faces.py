"""What the HTTP server, the gateway and the monitor add to a daemon: memory and CPU time.

    python -m benchmarks.faces [--rounds 7] [--rivals FOLDER] [--out FILE]

Daemons with and without these plugins start in turn. Memory is read when the daemon is idle, and
after a first request to `/`, `/metrics`, `/v1/models` and `/v1/chat/completions` (which no model
answers) has imported the server; CPU time from the start to READY, of that first round of requests,
and of what a second round does not take any more, which is the price of the imports.

With --rivals, the imports of the servers that others would use are measured in the same rounds, in
processes that have what the daemon has already. FOLDER is filled by

    python -m pip install --target FOLDER fastapi uvicorn httptools uvloop mcp
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from aitorrentd.control.client import Client
from benchmarks.daemon import cpu_s, rss_mb
from benchmarks.report import finish, spread

FACES = ("http", "gateway", "monitor")
ALONE: dict[str, dict[str, object]] = {
    name: {"enabled": False} for name in ("hub", "discovery", "nat", "dht", "tracker")
}
IDLE_S = 1.0
BASE = "import asyncio, ssl, json, logging, email.utils, pydantic, uvloop"
RIVALS = {
    "starlette": "import starlette.applications, starlette.responses, uvicorn",
    "fastapi": "import fastapi, uvicorn",
    "mcp": "import mcp.server, mcp.server.mcpserver, uvicorn",
}
PROTOCOL = "import uvicorn.protocols.http.httptools_impl"
CHAT = '{"model": "none", "messages": [{"role": "user", "content": "x"}]}'


def started(home: Path, *, has_faces: bool) -> tuple[subprocess.Popen[bytes], float]:
    """A daemon that is ready, and its CPU seconds until then."""
    plugins: dict[str, dict[str, object]] = {**ALONE}
    plugins["transport"] = {"listen": "127.0.0.1", "port": 0}
    for name in FACES:
        plugins[name] = {"enabled": has_faces}
    plugins["http"] |= {"port": 0}
    config = home / "aitorrent.yaml"
    config.write_text(yaml.safe_dump({"version": 1, "plugins": plugins}))
    command = [sys.executable, "-m", "aitorrentd.main", "--config", str(config)]
    command += ["--state-dir", str(home / "state"), "--log-level", "error"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(f"{home}/notify")
        notify.settimeout(60)
        environ = {**os.environ, "NOTIFY_SOCKET": f"{home}/notify"}
        process = subprocess.Popen(command, env=environ)
        while b"READY=1" not in notify.recv(65_536):
            pass
    return process, cpu_s(process.pid)


def ask(home: Path) -> None:
    """One request to each face."""
    with Client(home / "state" / "run" / "control.sock", timeout=30) as client:
        address = client.call("http.status")["listening"][0]
    for method, path, body in (
        ("GET", "/", None),
        ("GET", "/metrics", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/chat/completions", CHAT),
    ):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()


def import_ms(folder: Path, rival: str) -> float:
    """CPU milliseconds that the imports of a rival add."""
    timed = ("t = time.process_time()", RIVALS[rival], PROTOCOL)
    code = "; ".join(("import time", BASE, *timed, "print((time.process_time() - t) * 1e3)"))
    command = [sys.executable, "-c", code]
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    return float(subprocess.run(command, env=environ, check=True, capture_output=True).stdout)


def once(*, has_faces: bool) -> dict[str, float]:
    """The figures of one daemon."""
    with tempfile.TemporaryDirectory(prefix="ait-", dir="/tmp") as directory:
        home = Path(directory)
        process, ready_s = started(home, has_faces=has_faces)
        try:
            time.sleep(IDLE_S)
            found = {"ready_cpu_ms": ready_s * 1e3, "idle_mib": rss_mb(process.pid) / 1.048576}
            if has_faces:
                for name in ("first_requests_cpu_ms", "later_requests_cpu_ms"):
                    before = cpu_s(process.pid)
                    ask(home)
                    time.sleep(IDLE_S)
                    found[name] = (cpu_s(process.pid) - before) * 1e3
                found["used_mib"] = rss_mb(process.pid) / 1.048576
        finally:
            process.terminate()
            process.wait(30)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rivals", type=Path, metavar="FOLDER", help="has FastAPI and mcp")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    once(has_faces=True)  # fills the page cache and the bytecode cache
    rivals: dict[str, list[float]] = {name: [] for name in RIVALS if args.rivals}
    for name in rivals:
        import_ms(args.rivals, name)
    pairs = []
    for _ in range(args.rounds):
        pairs.append((once(has_faces=False), once(has_faces=True)))
        for name, found in rivals.items():
            found.append(import_ms(args.rivals, name))
    added = {
        "idle_mib": [b["idle_mib"] - a["idle_mib"] for a, b in pairs],
        "used_mib": [b["used_mib"] - a["idle_mib"] for a, b in pairs],
        "ready_cpu_ms": [b["ready_cpu_ms"] - a["ready_cpu_ms"] for a, b in pairs],
        "first_requests_cpu_ms": [b["first_requests_cpu_ms"] for _, b in pairs],
        "imports_cpu_ms": [
            b["first_requests_cpu_ms"] - b["later_requests_cpu_ms"] for _, b in pairs
        ],
    }
    ours_ms = statistics.median(added["imports_cpu_ms"])
    figures = {
        "without_idle_mib": spread([a["idle_mib"] for a, _ in pairs]),
        "added": {name: spread(values) for name, values in added.items()},
        "added_mib_median": round(statistics.median(added["used_mib"]), 1),
        "rivals_import_cpu_ms": {name: spread(found) for name, found in rivals.items()},
        "imports_ratio_to": {
            name: round(ours_ms / statistics.median(found), 2) for name, found in rivals.items()
        },
    }
    finish(figures, args.out)


if __name__ == "__main__":
    main()
