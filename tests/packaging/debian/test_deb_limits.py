"""Code that takes more than its share, run by a sandbox and a worker of the installed daemon.

The kernel has to hold it, and whoever sent it has to be told at which limit it was stopped.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from tests.support.packaging.package_machine import Done, Machine, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(1800)]

# name: (code, what the caller is told, or one of what he is told)
GREEDY: Final[dict[str, tuple[str, str | tuple[str, ...]]]] = {
    "allocates": (
        "kept = []\nwhile True: kept.append(bytearray(10**6))",
        "the code used more than its 384.0 MiB of memory",
    ),
    # Shared memory is not counted by RLIMIT_DATA: this one is for MemoryMax.
    "shares memory": (
        "import mmap\nkept = []\n"
        "while True: kept.append(mmap.mmap(-1, 2**20)); kept[-1].write(b'1' * 2**20)",
        "the code used more than its 384.0 MiB of memory",
    ),
    # On a busy machine it does not get 10 s of processor time before its time is up.
    "spins": (
        "while True: pass",
        ("the code used more than its 10 s of processor time", "the code ran longer than its 30 s"),
    ),
    "forks": (
        "import os, time\nwhile True:\n  if os.fork() == 0: time.sleep(999)",
        "the code started too many processes or threads",
    ),
    "starts threads": (
        "import threading, time\nclass Idle(threading.Thread):\n  def run(self): time.sleep(999)\n"
        "while True: Idle(daemon=True).start()",
        "the code started too many processes or threads",
    ),
    "sleeps": ("import time; time.sleep(999)", "the code ran longer than its 30 s"),
    "writes": (
        "open('/tmp/x', 'w')",
        "the sandbox does not allow that: [Errno 30] Read-only file system",
    ),
    "makes a file without a name": (
        "import os; os.write(os.memfd_create('x'), b'x')",
        "the sandbox does not allow that: [Errno 1]",
    ),
    "opens a socket": (
        "import socket; socket.socket()",
        "the sandbox does not allow that: [Errno 1]",
    ),
    "opens files": (
        "kept = [open('/dev/null') for _ in range(99)]",
        "the code had more than 32 files open",
    ),
    "runs a program": (
        "import subprocess; subprocess.run(['/usr/bin/id'])",
        "the sandbox does not allow that: [Errno 1]",
    ),
    "reads the configuration": (
        "open('/etc/aitorrent.yaml')",
        "the code failed: FileNotFoundError: [Errno 2]",
    ),
    "reads the key": (
        "open('/var/lib/aitorrent/identity.key')",
        "the code failed: FileNotFoundError: [Errno 2]",
    ),
    "kills its warden": (
        "import os, time; os.kill(os.getppid(), 9); time.sleep(999)",
        "worker foreign is gone: its process ended; see: journalctl -u 'aitorrent-sandbox@*' -n 20",
    ),
}


SPINS: Final = "import os\nos.fork(); os.fork()\nwhile True: pass"


def ask(machine: Machine, code: str, *, sandbox: bool = True) -> Done:
    where = "true" if sandbox else "false"
    words = (f"code={json.dumps(code)}", f"sandbox={where}")
    return machine.ctl("--timeout", "90", "call", "probe.run", *words, timeout_s=120)


def units(machine: Machine, kind: str) -> list[str]:
    shown = machine.run(
        *("systemctl", "list-units", "--plain", "--no-legend", f"aitorrent-{kind}@*")
    ).out
    return [line.split()[0] for line in shown.splitlines()]


def kernel_says(machine: Machine, unit: str, v1: str, v2: str) -> str:
    """A file of the unit's control group, under its name of version 1 or 2."""
    group = machine.unit("ControlGroup", unit)
    for root, file in ((f"/sys/fs/cgroup/{v1.partition('.')[0]}", v1), ("/sys/fs/cgroup", v2)):
        shown = machine.run("cat", f"{root}{group}/{file}", check=False)
        if shown.code == 0:
            return shown.out
    raise AssertionError(f"{unit} has no {v1} or {v2}")


def processors(machine: Machine, unit: str) -> float:
    """How many processors the kernel lets a unit use."""
    quota = kernel_says(machine, unit, "cpu.cfs_quota_us", "cpu.max").split()
    period = quota[1:] or [kernel_says(machine, unit, "cpu.cfs_period_us", "")]
    return int(quota[0]) / int(period[0])


def test_greedy_code_is_stopped_and_told_why_while_all_else_goes_on(probed: Machine) -> None:
    daemon, node = probed.unit("MainPID"), probed.identity()
    with ThreadPoolExecutor(max_workers=len(GREEDY)) as pool:
        ends = {name: pool.submit(ask, probed, code) for name, (code, _) in GREEDY.items()}
        # Beside all of them another sandbox answers.
        done = ask(probed, "result = 6 * 7")
        assert done.code == 0, done.text
        assert json.loads(done.out)["result"] == "42"
        said = {name: end.result() for name, end in ends.items()}
    for name, (_, told) in GREEDY.items():
        assert said[name].code != 0, f"{name}: {said[name].out}"
        any_of = (told,) if isinstance(told, str) else told
        assert any(text in said[name].err for text in any_of), f"{name}: {said[name].err}"
    assert (probed.unit("MainPID"), probed.identity()) == (daemon, node)
    # Nothing that it started is left, and nothing is in a failed state.
    until(lambda: not units(probed, "sandbox"), 15)
    assert probed.run("pgrep", "-f", "aitorrent-sandbox", check=False).out == ""


def test_kernel_holds_the_limits_of_a_sandbox_for_all_its_processes_together(
    probed: Machine,
) -> None:
    with ThreadPoolExecutor() as pool:
        end = pool.submit(ask, probed, SPINS)
        (unit,) = until(lambda: units(probed, "sandbox"))
        most = kernel_says(probed, unit, "memory.limit_in_bytes", "memory.max")
        assert int(most) == 512 * 2**20
        assert int(kernel_says(probed, unit, "pids.max", "pids.max")) == 8
        # Four processes that spin get one processor between them. How often the kernel makes them
        # wait is no measure: on a busy machine they get less than their quota anyhow.
        until(lambda: int(kernel_says(probed, unit, "pids.current", "pids.current")) >= 4)
        assert processors(probed, unit) == 1.0
        assert end.result().code != 0


def test_worker_that_takes_too_much_ends_alone(probed: Machine) -> None:
    drop_in = probed.root / "etc/systemd/system/aitorrent-worker@.service.d"
    drop_in.mkdir(parents=True)
    (drop_in / "test.conf").write_text("[Service]\nMemoryMax=300M\nMemorySwapMax=0\nTasksMax=20\n")
    probed.run("systemctl", "daemon-reload")
    daemon, after = probed.unit("MainPID"), probed.now()
    try:
        done = ask(probed, GREEDY["allocates"][0], sandbox=False)
        assert "its process ended; see: journalctl -u 'aitorrent-worker@*' -n 20" in done.err
        told = probed.run("journalctl", "-q", "-o", "cat", after, "-u", "aitorrent-worker@*").out
        assert re.search(r"status=9/KILL|oom-kill", told), told
        done = ask(probed, GREEDY["starts threads"][0], sandbox=False)
        assert done.code != 0
        assert json.loads(ask(probed, "result = 6 * 7", sandbox=False).out)["result"] == "42"
    finally:
        (drop_in / "test.conf").unlink()
        drop_in.rmdir()
        probed.run("systemctl", "daemon-reload")
    assert probed.unit("MainPID") == daemon
    # Torch needs address space: it alone is not limited there.
    limits = ask(probed, "import resource as r; result = r.getrlimit(r.RLIMIT_AS)", sandbox=False)
    assert json.loads(limits.out)["result"] == "(-1, -1)"
