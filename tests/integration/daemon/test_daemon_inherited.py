"""What a daemon inherits from its parent: closed descriptors, low limits, sockets, signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aitorrentd.daemon import room
from aitorrentd.errors import Unavailable
from tests.support.nodes import REPOSITORY, Daemon, DaemonFactory, short_dir, wait_for

BASE = "plugins: {transport: {listen: 127.0.0.1, port: 0}}\n"


@contextmanager
def started(prelude: str) -> Iterator[tuple[Daemon, Path]]:
    """A daemon that a shell becomes after `prelude`, and the file for its standard error."""
    directory = short_dir()
    (directory / "a.yaml").write_text(BASE)
    log = directory / "stderr.log"
    command = [sys.executable, "-m", "aitorrentd.main", "--config", str(directory / "a.yaml")]
    command += ["--state-dir", str(directory / "state")]
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f'{prelude}; exec "$@"', "bash", *command],
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    daemon = Daemon.__new__(Daemon)
    daemon.process = process
    daemon.socket = directory / "state" / "run" / "control.sock"
    try:
        yield daemon, log
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("closed", ["exec <&- >&- 2>&-", "exec 2>&-", "exec <&-"])
async def test_daemon_without_standard_descriptors_keeps_their_numbers_free(closed: str) -> None:
    with started(closed) as (daemon, _):
        await wait_for(daemon.socket.exists, 60)
        await daemon.call("node.wait", {"plugin": "transport", "timeout_s": 60})
        opened = [os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)]
        for number, path in enumerate(opened):
            assert path == "/dev/null" or (number == 2 and path.endswith("stderr.log"))
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == 0


@pytest.mark.parametrize(
    ("prelude", "said", "code"),
    [
        ("ulimit -n 16", "this process may open only 16 files; raise LimitNOFILE= in", 69),
        (
            "export LISTEN_FDS=2 LISTEN_PID=$$",
            "descriptor 3 is not a socket (Bad file descriptor)",
            78,
        ),
        (
            "export LISTEN_FDS=1 LISTEN_PID=$$; exec 3</dev/null",
            "descriptor 3 is not a socket (Socket operation on non-socket); pass the sockets",
            78,
        ),
    ],
)
async def test_start_that_cannot_be_is_one_line(prelude: str, said: str, code: int) -> None:
    with started(prelude) as (daemon, log):
        assert await daemon.ended(60) == code
        (line,) = log.read_text().splitlines()
        assert line.startswith("aitorrentd: ")
        assert said in line


def test_machine_without_a_free_descriptor_is_told_from_a_low_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(Unavailable, match=r"no free file descriptor; raise fs\.file-max"):
        room.check_room()


def test_too_few_threads_stop_the_start_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    left = 3
    really = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        nonlocal left
        if not left:
            raise RuntimeError("can't start new thread")
        left -= 1
        really(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Unavailable, match="only 3 of 12 threads can be created; raise TasksMax="):
        room.check_room()


def test_check_of_the_room_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    room.check_room()
    assert os.listdir("/proc/self/fd") == before
    assert not [t for t in threading.enumerate() if t.name == "room"]


async def test_log_file_that_is_truncated_begins_anew() -> None:
    with started(":") as (daemon, log):
        await wait_for(daemon.socket.exists, 60)
        await daemon.call("node.wait", {"plugin": "transport", "timeout_s": 60})
        await wait_for(lambda: log.stat().st_size > 0)
        os.truncate(log, 0)
        daemon.signal(signal.SIGUSR1)
        await wait_for(lambda: b"SIGUSR1" in log.read_bytes())
        assert b"\0" not in log.read_bytes()


async def test_signals_of_log_rotation_end_nothing(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory()
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        daemon.signal(number)
    await wait_for(lambda: "ignoring SIGUSR2" in daemon.log())
    assert (await daemon.call("node.status"))["state"] == "running"
    daemon.signal(signal.SIGTSTP)
    daemon.signal(signal.SIGCONT)
    assert (await daemon.call("node.status"))["state"] == "running"
    assert await daemon.stop() == 0
