"""What the Debian package costs on a booted Debian 12: `python -m benchmarks.package [--rounds 3]`.

Each round boots a fresh system with systemd as process 1 and installs the package with apt. Cold
means that the page cache was dropped before. The start of a bare Python is the baseline for that of
`aitorrentctl`. Needs root and the requirements of the package tests.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from benchmarks.report import finish, spread
from tests.support.packaging.package_build import built
from tests.support.packaging.package_machine import Machine, pause

IDLE_S = 5.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def seconds_cold(machine: Machine, *command: str) -> float:
    """The time of a command whose files are all read from disk."""
    machine.run("sync")
    DROP_CACHES.write_text("3")
    return machine.run(*command, check=False).took_s


def one_round(package: Path) -> dict[str, float]:
    """The figures from one fresh system."""
    with Machine() as machine:
        began = time.perf_counter()
        machine.run("apt-get", "install", "-y", machine.share(package), timeout_s=300)
        machine.run("aitorrentctl", "wait")
        installed_s = time.perf_counter() - began
        machine.run("systemctl", "restart", "aitorrentd")
        start, ready = (
            int(machine.unit(name))
            for name in ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        )
        pause(IDLE_S)
        status = machine.sh(f"cat /proc/{machine.unit('MainPID')}/status").out
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        return {
            "install_to_ready_s": installed_s,
            "start_to_ready_s": (ready - start) / 1e6,
            "idle_rss_mib": int(resident[1]) / 1024 if resident else 0.0,
            "status_cold_s": seconds_cold(machine, "aitorrentctl", "status"),
            "status_warm_s": machine.run("aitorrentctl", "status").took_s,
            "bare_python_cold_s": seconds_cold(machine, "python3", "-c", "pass"),
            "bare_python_warm_s": machine.run("python3", "-c", "pass").took_s,
        }


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    package = built()
    rounds = [one_round(package) for _ in range(options.rounds)]
    figures: dict[str, object] = {"package_mb": round(package.stat().st_size / 1e6, 1)}
    figures |= {name: spread([one[name] for one in rounds]) for name in rounds[0]}
    finish(figures, options.json)


if __name__ == "__main__":
    main()
