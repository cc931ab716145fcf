"""Code that takes more than its share, run by a sandbox and a worker of the installed daemon.

The kernel has to hold it, and whoever sent it has to be told at which limit it was stopped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import pytest

from tests.support.packaging.package_machine import Done, Machine, until

pytestmark = [pytest.mark.systemd, pytest.mark.slow, pytest.mark.timeout(1800)]

# name: (code, what the caller is told)
GREEDY: Final = {
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

# However busy the machine is: the other limits are hit before this time is up.
PATIENCE_S: Final = 600
_PATIENT: Final = (
    "from aitorrentd.workers.sandbox import Limits, main; "
    f"raise SystemExit(main(Limits(time_s={PATIENCE_S})))"
)


def ask(machine: Machine, code: str, *, sandbox: bool = True, timeout_s: float = 60) -> Done:
    where = "true" if sandbox else "false"
    words = (f"code={json.dumps(code)}", f"sandbox={where}", f"timeout_s={timeout_s}")
    for_ctl = ("--timeout", f"{timeout_s + 30}")
    return machine.ctl(*for_ctl, "call", "probe.run", *words, timeout_s=timeout_s + 60)


@contextmanager
def drop_in(machine: Machine, kind: str, text: str) -> Iterator[None]:
    """Settings added to the units of workers or sandboxes that start while the block runs."""
    directory = machine.root / f"etc/systemd/system/aitorrent-{kind}@.service.d"
    directory.mkdir(parents=True)
    (directory / "test.conf").write_text(text)
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(directory)
        machine.run("systemctl", "daemon-reload")


@pytest.fixture
def patient(probed: Machine) -> Iterator[Machine]:
    """The machine, whose sandboxes may run for `PATIENCE_S`; every other limit is as installed."""
    program = f'/usr/lib/aitorrentd/bin/python3 -I -c "{_PATIENT}"'
    longer = f"RuntimeMaxSec={PATIENCE_S + 60}\nExecStart=\nExecStart={program}\n"
    with drop_in(probed, "sandbox", f"[Service]\n{longer}"):
        yield probed


def units(machine: Machine, kind: str) -> list[str]:
    shown = machine.run(
        *("systemctl", "list-units", "--plain", "--no-legend", f"aitorrent-{kind}@*")
    ).out
    return [line.split()[0] for line in shown.splitlines()]


def kernel_says(machine: Machine, unit: str, v1: str, v2: str) -> str:
    """A file of the unit's control group, under its name of version 1 or 2."""
    group = machine.unit("ControlGroup", unit)
    assert group, f"{unit} has ended"
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


def throttled(machine: Machine, unit: str) -> int:
    """In how many periods the kernel made the unit wait because its quota was used up."""
    found = re.search(
        r"^nr_throttled (\d+)$", kernel_says(machine, unit, "cpu.stat", "cpu.stat"), re.M
    )
    assert found is not None
    return int(found[1])


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
        assert told in said[name].err, f"{name}: {said[name].err}"
    assert (probed.unit("MainPID"), probed.identity()) == (daemon, node)
    # Nothing that it started is left, and nothing is in a failed state.
    until(lambda: not units(probed, "sandbox"), 15)
    assert probed.run("pgrep", "-f", "aitorrent-sandbox", check=False).out == ""


def test_code_that_spins_is_stopped_at_its_processor_time(patient: Machine) -> None:
    done = ask(patient, "while True: pass", timeout_s=PATIENCE_S)
    assert done.code != 0, done.out
    assert "the code used more than its 10 s of processor time" in done.err


def test_kernel_holds_the_limits_of_a_sandbox_for_all_its_processes_together(
    patient: Machine,
) -> None:
    with patient.favoured(), ThreadPoolExecutor() as pool:
        end = pool.submit(ask, patient, SPINS, timeout_s=PATIENCE_S)
        (unit,) = until(lambda: units(patient, "sandbox"))
        most = kernel_says(patient, unit, "memory.limit_in_bytes", "memory.max")
        assert int(most) == 512 * 2**20
        assert int(kernel_says(patient, unit, "pids.max", "pids.max")) == 8
        assert processors(patient, unit) == 1.0
        # Four processes spin on the time of one processor: the kernel makes them wait.
        before = until(lambda: throttled(patient, unit), PATIENCE_S)
        until(lambda: throttled(patient, unit) > before, PATIENCE_S)
        patient.run("systemctl", "stop", unit)
        assert end.result().code != 0


def test_worker_that_takes_too_much_ends_alone(probed: Machine) -> None:
    daemon, after = probed.unit("MainPID"), probed.now()
    less = "[Service]\nMemoryMax=300M\nMemorySwapMax=0\nTasksMax=20\n"
    with drop_in(probed, "worker", less):
        done = ask(probed, GREEDY["allocates"][0], sandbox=False)
        assert "its process ended; see: journalctl -u 'aitorrent-worker@*' -n 20" in done.err
        told = probed.run("journalctl", "-q", "-o", "cat", after, "-u", "aitorrent-worker@*").out
        assert re.search(r"status=9/KILL|oom-kill", told), told
        done = ask(probed, GREEDY["starts threads"][0], sandbox=False)
        assert done.code != 0
        assert json.loads(ask(probed, "result = 6 * 7", sandbox=False).out)["result"] == "42"
    assert probed.unit("MainPID") == daemon
    # Torch needs address space: it alone is not limited there.
    limits = ask(probed, "import resource as r; result = r.getrlimit(r.RLIMIT_AS)", sandbox=False)
    assert json.loads(limits.out)["result"] == "(-1, -1)"
