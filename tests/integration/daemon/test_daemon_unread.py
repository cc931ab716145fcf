"""A daemon whose standard error nobody reads goes on, and ends when it is told to."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aitorrentd.control.client import Client
from aitorrentd.errors import AitorrentError, TimedOut
from tests.support.nodes import REPOSITORY, short_dir, wait_for

CALLS = 1500
"Each leaves an audit record; a pipe holds 64 KiB."


def unread_pipe() -> tuple[int, int]:
    return os.pipe()


def stopped_terminal() -> tuple[int, int]:
    """A terminal on which somebody typed Ctrl-S."""
    master, slave = pty.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    return master, slave


def non_blocking_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    return reader, writer


@pytest.fixture
def directory() -> Iterator[Path]:
    yield short_dir()


def start(directory: Path, end: int) -> subprocess.Popen[bytes]:
    config = {
        "version": 1,
        "node": {"state_dir": str(directory / "state")},
        "control": {"socket": str(directory / "control.sock")},
        "log": {"level": "debug"},
        "plugins": {"transport": {"listen": "127.0.0.1", "port": 0}},
    }
    file = directory / "aitorrent.yaml"
    file.write_text(yaml.safe_dump(config))
    return subprocess.Popen(
        [sys.executable, "-m", "aitorrentd.main", "--config", str(file)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=end,
        stderr=end,
    )


def answers(socket: Path) -> bool:
    try:
        with Client(socket, 5) as client:
            return bool(client.call("node.status")["state"] == "running")
    except AitorrentError:
        return False


@pytest.mark.parametrize("ends", [unread_pipe, stopped_terminal, non_blocking_pipe])
async def test_log_that_nobody_reads_stops_neither_the_daemon_nor_its_end(
    ends: object, directory: Path
) -> None:
    assert callable(ends)
    reader, end = ends()
    daemon = start(directory, end)
    try:
        os.close(end)
        socket = directory / "control.sock"
        await wait_for(lambda: answers(socket), 60)
        with Client(socket, 5) as client:
            for _ in range(CALLS):
                try:
                    client.call("transport.connect", {"address": "127.0.0.1:1"})
                except TimedOut:
                    raise
                except AitorrentError:
                    continue
            assert client.call("node.status")["state"] == "running"
            with client.stream("node.logs", {"level": "debug", "lines": 2000}) as items:
                assert len(list(items)) >= CALLS
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
        os.close(reader)


def test_start_that_fails_ends_with_its_code_though_nobody_reads_why(directory: Path) -> None:
    reader, end = os.pipe()
    os.set_blocking(end, False)
    try:
        while True:
            os.write(end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(end, True)
    done = subprocess.run(
        [sys.executable, "-m", "aitorrentd.main", "--config", str(directory / "absent.yaml")],
        cwd=REPOSITORY,
        stdout=end,
        stderr=end,
        timeout=30,
        check=False,
    )
    os.close(reader)
    os.close(end)
    assert done.returncode == 78
