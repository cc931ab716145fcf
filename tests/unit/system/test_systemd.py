"""The service manager's protocols, and the directories that it names."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrentd.system.paths import config_file, default_socket, directories
from aitorrentd.system.systemd import (
    Notifier,
    is_journal,
    listen_fds,
    unit_socket,
    watchdog_interval_s,
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = Path(tempfile.mkdtemp(prefix="ait-", dir="/tmp")) / "notify"
        sock.bind(str(path))
        sock.settimeout(5)
        yield sock
    path.unlink()
    path.parent.rmdir()


def test_notifications_are_one_datagram_of_lines(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    assert notifier
    assert notifier.ready("2 of 3\nplugins")
    assert manager.recv(4096) == b"READY=1\nSTATUS=2 of 3 plugins"
    notifier.stopping()
    assert manager.recv(4096) == b"STOPPING=1"
    notifier.watchdog()
    assert manager.recv(4096) == b"WATCHDOG=1"
    notifier.extend_timeout(1.5)
    assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=1500000"


def test_reload_carries_the_monotonic_time_in_microseconds(manager: socket.socket) -> None:
    Notifier({"NOTIFY_SOCKET": manager.getsockname()}).reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert abs(int(value) - time.monotonic() * 1e6) < 5e6


def test_abstract_sockets_are_reached() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"aitorrentd-test-{os.getpid()}"
        sock.bind("\0" + name)
        sock.settimeout(5)
        assert Notifier({"NOTIFY_SOCKET": "@" + name}).status("fine")
        assert sock.recv(4096) == b"STATUS=fine"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/notify", "@nobody-listens-here"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    assert Notifier({"NOTIFY_SOCKET": address} if address else {}).ready() is False


def test_manager_that_does_not_read_never_blocks_the_daemon(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    sent = [notifier.status("x" * 400) for _ in range(5000)]
    assert sent[0] is True
    assert sent[-1] is False


def test_watchdog_interval_is_read_only_when_it_is_for_this_process() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, pid=7) == 3.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, pid=7) is None
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "soon"}) is None


def test_sockets_for_another_process_are_not_taken_and_the_variables_go() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "control", "PATH": "x"}
    assert listen_fds(environ, pid=2) == {}
    assert environ == {"PATH": "x"}


def test_journal_is_known_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": stream})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "1:1"})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "nonsense"})
        assert not is_journal(file.fileno(), {})
    assert not is_journal(987_654, {"JOURNAL_STREAM": stream})


def test_system_service_uses_what_systemd_made() -> None:
    environ = {
        "STATE_DIRECTORY": "/var/lib/aitorrent",
        "CACHE_DIRECTORY": "/var/cache/aitorrent",
        "RUNTIME_DIRECTORY": "/run/aitorrent",
    }
    found = directories(environ)
    assert str(found.state) == "/var/lib/aitorrent"
    assert str(found.cache) == "/var/cache/aitorrent"
    assert default_socket(environ) == Path("/run/aitorrent/control.sock")
    assert config_file(environ) == Path("/etc/aitorrent.yaml")


def test_person_uses_the_xdg_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    environ = {"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000", "XDG_CACHE_HOME": "rel"}
    found = directories(environ)
    assert str(found.state) == "/home/ada/.local/state/aitorrent"
    assert str(found.cache) == "/home/ada/.cache/aitorrent"
    assert default_socket(environ) == Path("/run/user/1000/aitorrent/control.sock")
    assert config_file(environ) == Path("/home/ada/.config/aitorrent/aitorrent.yaml")
    # Without XDG_RUNTIME_DIR the socket is below the state, never below /tmp.
    expected = Path("/home/ada/.local/state/aitorrent/run/control.sock")
    assert default_socket({"HOME": "/home/ada"}) == expected


def test_state_directory_that_is_named_brings_the_others_along() -> None:
    found = directories({"AITORRENT_STATE_DIR": "/srv/a", "RUNTIME_DIRECTORY": "/run/aitorrent"})
    assert [str(d) for d in (found.state, found.cache, found.runtime)] == [
        "/srv/a",
        "/srv/a/cache",
        "/srv/a/run",
    ]


def test_paths_are_light_to_import() -> None:
    import subprocess

    code = "import sys, aitorrentd.system.paths; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    assert not {"asyncio", "pydantic", "yaml", "aitorrentd.api"} & set(loaded)


def test_workers_are_units_only_for_the_system_service(tmp_path: Path) -> None:
    runtime = str(tmp_path)
    service = {"INVOCATION_ID": "0123", "RUNTIME_DIRECTORY": runtime}
    assert unit_socket("worker", service, runtime=runtime) is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{runtime}/worker.sock")
        assert unit_socket("worker", service, runtime=runtime) == tmp_path / "worker.sock"
        assert unit_socket("worker", {"INVOCATION_ID": "0123"}, runtime=runtime) is None
        assert unit_socket("worker", {"RUNTIME_DIRECTORY": runtime}, runtime=runtime) is None
        elsewhere = {**service, "RUNTIME_DIRECTORY": "/run/user/1000/aitorrent"}
        assert unit_socket("worker", elsewhere, runtime=runtime) is None
