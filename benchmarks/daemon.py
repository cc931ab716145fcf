"""How soon the daemon is ready, and how much memory it uses while idle.

    python -m benchmarks.daemon [--runs 7] [--json FILE]

Each run starts a daemon with every built-in plugin on loopback, with new state or state from an
earlier run, waits for READY=1 as a service manager does, and reads VmRSS after two idle seconds.
The baseline, in the same run, is a Python process that only imports asyncio. Prints medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import finish, spread

IDLE_S = 2.0
READY_LIMIT_S = 60.0


def rss_mb(pid: int) -> float:
    """Resident memory in megabytes (10^6 bytes), as in proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """CPU seconds used by the process, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def has_torch(pid: int) -> bool:
    """Whether the process has mapped torch."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")


def start_once(state: Path) -> tuple[float, float, float]:
    """Seconds to READY=1, CPU seconds until then, and idle memory in MB, of one daemon."""
    with (
        tempfile.TemporaryDirectory(prefix="ait-", dir="/tmp") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        notify.bind(f"{directory}/notify")
        notify.settimeout(READY_LIMIT_S)
        command = [sys.executable, "-m", "aitorrentd.main", "--state-dir", str(state)]
        command += ["--host", "127.0.0.1", "--port", "0", "--log-level", "error"]
        environ = {**os.environ, "NOTIFY_SOCKET": f"{directory}/notify"}
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environ)
        try:
            while b"READY=1" not in notify.recv(65_536):
                pass
            ready_s, used_s = time.perf_counter() - began, cpu_s(process.pid)
            time.sleep(IDLE_S)
            if has_torch(process.pid):
                raise SystemExit("the daemon has loaded torch")
            return ready_s, used_s, rss_mb(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def bare_once() -> tuple[float, float, float]:
    """The same for a Python that imports asyncio and reports that."""
    code = "import asyncio, sys; print('up', flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    began = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        up_s, used_s = time.perf_counter() - began, cpu_s(process.pid)
        memory = rss_mb(process.pid)
        process.communicate(timeout=30)
    return up_s, used_s, memory


def measure(runs: int) -> dict[str, list[tuple[float, float, float]]]:
    """(seconds, CPU seconds, megabytes) of each run, by program."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    kept = Path(tempfile.mkdtemp(prefix="ait-", dir="/tmp"))
    start_once(kept)  # fills the page cache and the bytecode cache
    for _ in range(runs):
        fresh = Path(tempfile.mkdtemp(prefix="ait-", dir="/tmp"))
        found.setdefault("daemon, first start", []).append(start_once(fresh))
        found.setdefault("daemon, later start", []).append(start_once(kept))
        found.setdefault("bare Python with asyncio", []).append(bare_once())
        shutil.rmtree(fresh)
    shutil.rmtree(kept)
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.runs)
    print(f"{'median of ' + str(args.runs):26} {'ready s':>8} {'cpu s':>7} {'idle MB':>8}")
    figures: dict[str, Any] = {}
    for name, values in found.items():
        seconds, used, memory = zip(*values, strict=True)
        rows = {"ready_s": spread(seconds), "cpu_s": spread(used), "idle_mb": spread(memory)}
        medians = [row["median"] for row in rows.values()]
        print(f"{name:26} {medians[0]:8.3f} {medians[1]:7.2f} {medians[2]:8.1f}")
        figures[name] = rows
    finish({"runs": args.runs, "starts": figures}, args.json)


if __name__ == "__main__":
    main()
