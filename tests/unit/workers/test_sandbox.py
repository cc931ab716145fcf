"""A sandbox runs foreign code within limits, and says which of them ended it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.errors import (
    AitorrentError,
    Denied,
    InvalidParams,
    ProtocolError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from aitorrentd.workers.process import WorkerProcess, spawn_worker
from aitorrentd.workers.sandbox import Limits, which_limit
from tests.support.nodes import REPOSITORY

pytestmark = pytest.mark.slow

UNIT = REPOSITORY / "packaging/systemd/aitorrent-sandbox@.service"
FOREIGN = "tests.support.workers:foreign"
SMALL = {"processor_s": 1, "memory_bytes": 200 * 2**20, "frame_bytes": 100_000, "open_files": 32}
PATIENT_S = 120.0
"No test waits so long: a limit that is met is met, however busy the machine is."


@asynccontextmanager
async def small_sandbox(
    path: Path, *, time_s: float = PATIENT_S
) -> AsyncIterator[tuple[WorkerProcess, subprocess.Popen[bytes]]]:
    """A sandbox with small limits, started as a socket unit would."""
    main = f"from aitorrentd.workers.sandbox import *; main(Limits(time_s={time_s}, **{SMALL}))"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        connecting = asyncio.create_task(
            spawn_worker(FOREIGN, name="s", sandbox=True, unit_socket=path)
        )
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            start = [sys.executable, "-c", main]
            process = await asyncio.to_thread(subprocess.Popen, start, stdin=connection.fileno())
    try:
        yield await connecting, process
    finally:
        await (await connecting).close()
        process.kill()
        process.wait(10)


async def refusal(sandbox: WorkerProcess, code: str) -> AitorrentError:
    with pytest.raises(AitorrentError) as caught:
        await sandbox.request({"op": "run", "code": code}, timeout_s=PATIENT_S)
    return caught.value


async def test_code_is_run_and_answered() -> None:
    sandbox = await spawn_worker(FOREIGN, name="s", sandbox=True)
    for number in (3, 4):
        frame = await sandbox.request({"op": "run", "code": f"result = {number} ** 2"})
        assert frame.header["result"] == number**2
    await sandbox.close()


SLEEP_S = 5.0
DEADLY = {
    "sleeps": ("import time; time.sleep(600)", TimedOut, "time", "ran longer than its 5 s"),
    "spins": ("while True: pass", TooLarge, "processor time", "more than its 1 s"),
    "spins deaf": (
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        TooLarge,
        "processor time",
        "more than its 1 s",
    ),
    "is killed": ("import os; os.kill(os.getpid(), 9)", TooLarge, "memory", "its 200.0 MiB"),
    "crashes": ("import os; os.abort()", Unavailable, None, "crashed (SIGABRT)"),
    "leaves": ("import os; os._exit(3)", Unavailable, None, "exit code 3"),
    "goes on in silence": (
        "import os, socket, time\nsocket.socket(fileno=os.dup(0)).shutdown(socket.SHUT_WR)\n"
        "time.sleep(600)",
        TimedOut,
        "time",
        "ran longer than its 5 s",
    ),
    "says too much": (
        "import os, time; os.write(0, b'\\x7f\\xff\\xff\\xff'); time.sleep(600)",
        ProtocolError,
        None,
        "frame of 2147483647 bytes; allowed are 2 to 100000",
    ),
    "exits": ("raise SystemExit", Unavailable, None, "the code exited"),
}


@pytest.mark.parametrize("name", DEADLY)
async def test_code_that_cannot_go_on_ends_its_sandbox(name: str, tmp_path: Path) -> None:
    code, kind, limit, text = DEADLY[name]
    # Its time begins with its start, which on a busy machine takes a part of it.
    time_s = SLEEP_S if limit == "time" else PATIENT_S
    async with small_sandbox(tmp_path / "s.sock", time_s=time_s) as (sandbox, process):
        error = await refusal(sandbox, code)
        assert type(error) is kind
        assert error.data.get("limit") == limit
        assert text in error.message
        await asyncio.wait_for(asyncio.shield(sandbox.closed), 10)
        assert await asyncio.to_thread(process.wait, 10) == 0


REFUSED = {
    "allocates": ("x = []\nwhile True: x.append(bytearray(10**6))", TooLarge, "memory"),
    "writes": (
        "from pathlib import Path; Path('/tmp/sandboxed').write_text('x')",
        TooLarge,
        "files",
    ),
    "opens": ("x = [open('/dev/null') for _ in range(99)]", TooLarge, "open files"),
    "lacks rights": ("raise PermissionError(1, 'no')", Denied, "rights"),
    "fails": ("1 / 0", Unavailable, None),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_code_that_is_refused_something_is_told_and_may_try_again(
    name: str, tmp_path: Path
) -> None:
    code, kind, limit = REFUSED[name]
    async with small_sandbox(tmp_path / "s.sock") as (sandbox, _):
        error = await refusal(sandbox, code)
        assert type(error) is kind
        assert error.data.get("limit") == limit
        frame = await sandbox.request({"op": "run", "code": "result = 'still here'"})
        assert frame.header["result"] == "still here"
    Path("/tmp/sandboxed").unlink(missing_ok=True)


def test_refused_processes_and_threads_are_told_as_such() -> None:
    for error in (BlockingIOError(11, "fork"), RuntimeError("can't start new thread")):
        told = which_limit(error, Limits())
        assert told is not None and told.data == {"limit": "processes"}
    assert which_limit(ValueError("no limit"), Limits()) is None


async def test_code_finds_no_way_to_the_daemon(tmp_path: Path) -> None:
    look = """
import os, socket, struct
result = []
for fd in range(64):
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            made_by = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            result.append(struct.unpack("3i", made_by)[0] == os.getppid())
    except OSError:
        pass
"""
    async with small_sandbox(tmp_path / "s.sock") as (sandbox, _):
        is_wardens = (await sandbox.request({"op": "run", "code": look})).header["result"]
        assert is_wardens and all(is_wardens)


async def test_daemon_that_hangs_up_ends_the_code_at_once(tmp_path: Path) -> None:
    async with small_sandbox(tmp_path / "s.sock") as (sandbox, process):
        pid = (
            await sandbox.request({"op": "run", "code": "import os; result = os.getpid()"})
        ).header
        waiting = asyncio.create_task(
            sandbox.request({"op": "run", "code": "import time; time.sleep(600)"})
        )
        await asyncio.sleep(0)
        await sandbox.close()
        with pytest.raises(Unavailable, match="gone"):
            await waiting
        assert await asyncio.to_thread(process.wait, 10) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid["result"], 0)


FORKS = """
import os, time
result = os.fork()
if not result:
    time.sleep(600)
"""


@pytest.mark.parametrize("then", ["", "os._exit(0)"])
async def test_nothing_that_code_started_outlives_its_sandbox(then: str, tmp_path: Path) -> None:
    told = tmp_path / "child"
    os.mkfifo(told)
    reading = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with small_sandbox(tmp_path / "s.sock", time_s=SLEEP_S) as (sandbox, process):
            code = f"writing = open({str(told)!r}, 'wb')\n{FORKS}{then}"
            with contextlib.suppress(TimedOut):
                await sandbox.request({"op": "run", "code": code}, timeout_s=PATIENT_S)
            if not then:
                assert select.select([reading], [], [], 0) == ([], [], []), "it is still there"
            await sandbox.close()
            assert await asyncio.to_thread(process.wait, 10) == 0
        # A fifo whose last writer is gone is at its end.
        assert await asyncio.to_thread(select.select, [reading], [], [], 10) != ([], [], [])
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)


async def test_entry_point_that_is_not_there_is_told() -> None:
    sandbox = await spawn_worker("tests.support.workers:nothing", name="s", sandbox=True)
    with pytest.raises((InvalidParams, Unavailable), match="cannot load worker"):
        await sandbox.request({"op": "run"})
    await sandbox.close()


def test_limits_of_the_unit_are_a_little_wider_than_the_program_s() -> None:
    """So that the program can say which was met, and the unit holds whatever it forgot."""
    unit: dict[str, Any] = dict(re.findall(r"(?m)^(\w+)=(\S+)$", UNIT.read_text()))
    limits = Limits()

    def size(name: str) -> int:
        return int(unit[name][:-1]) * {"M": 2**20, "G": 2**30}[unit[name][-1]]

    assert limits.memory_bytes < size("LimitDATA") < size("MemoryMax") < size("LimitAS")
    assert limits.time_s < float(unit["RuntimeMaxSec"].removesuffix("s"))
    # A process gets a second more than its limit, in case that it ignores the signal.
    assert limits.processor_s + 1 < int(unit["LimitCPU"])
    assert limits.open_files < int(unit["LimitNOFILE"])
    assert unit["LimitFSIZE"] == "0"
    assert unit["LimitNPROC"] == unit["TasksMax"]
