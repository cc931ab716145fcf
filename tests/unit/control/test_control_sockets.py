from __future__ import annotations

import multiprocessing
import os
import socket
import stat
from pathlib import Path

import pytest

from aitorrentd.api.faces import unix_socket
from aitorrentd.control.server import check_inherited
from aitorrentd.errors import AitorrentError, Conflict, Denied, InvalidParams, TimedOut

NOBODY = 65_534


def bind(path: Path, *, mode: int = 0o660, gid: int | None = None) -> unix_socket.BoundSocket:
    return unix_socket.bind(path, mode=mode, gid=gid, group="aitorrent")


def leave_stale_socket(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.close()


def test_the_socket_gets_its_mode_and_the_directory_is_made(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    bound = bind(path, mode=0o640)
    with bound.sock:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert "no group aitorrent" in bound.remark


@pytest.mark.root
def test_the_socket_gets_its_group(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with bind(path, gid=NOBODY).sock:
        assert path.stat().st_gid == NOBODY


def test_a_socket_file_of_a_dead_daemon_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    leave_stale_socket(path)
    with bind(path).sock, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_a_live_daemon_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with bind(path).sock:
        inode = path.stat().st_ino
        with pytest.raises(
            Conflict, match=r"another daemon is listening at .*control\.sock; stop it first"
        ):
            bind(path)
        assert path.stat().st_ino == inode


def test_a_live_daemon_with_a_full_backlog_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    callers = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        try:
            for _ in range(4):
                caller = socket.socket(socket.AF_UNIX)
                caller.setblocking(False)
                callers.append(caller)
                try:
                    caller.connect(str(path))
                except BlockingIOError:
                    break
            with pytest.raises(Conflict, match="another daemon is listening"):
                bind(path)
        finally:
            for caller in callers:
                caller.close()


def test_a_file_that_is_no_socket_is_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("precious")
    with pytest.raises(Conflict, match="exists and is not a socket"):
        bind(path)
    assert path.read_text() == "precious"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target.sock"
    leave_stale_socket(target)
    path = tmp_path / "control.sock"
    path.symlink_to(target)
    with pytest.raises(Conflict, match="is not a socket"):
        bind(path)
    assert target.exists()


def test_a_path_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="longer than 107 bytes; set control.socket"):
        bind(tmp_path / ("x" * 108))


def test_only_the_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    bound = bind(path)
    bound.sock.close()
    path.unlink()
    other = bind(path)
    with other.sock:
        bound.remove_file()
        assert path.exists()
        other.remove_file()
        assert not path.exists()
        other.remove_file()


def test_a_directory_that_somebody_keeps_locked_is_an_error_in_time(tmp_path: Path) -> None:
    with (
        unix_socket._only_one(tmp_path),
        pytest.raises(TimedOut, match="is locked by another process"),
        unix_socket._only_one(tmp_path, wait_s=0.05),
    ):
        pass


def test_other_sockets_from_the_service_manager_are_refused(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX) as idle,
        pytest.raises(InvalidParams, match="not a listening Unix stream socket"),
    ):
        check_inherited(idle)
    with socket.create_server(("127.0.0.1", 0)) as tcp, pytest.raises(InvalidParams, match="Unix"):
        check_inherited(tcp)


def _bind_as_nobody(path: Path, answer: multiprocessing.SimpleQueue[str]) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    try:
        bind(path)
    except AitorrentError as e:
        answer.put(f"{type(e).__name__}: {e.message}")
    else:
        answer.put("bound")


@pytest.mark.root
def test_a_place_without_permission_is_denied_with_a_way_out(open_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    child = context.Process(target=_bind_as_nobody, args=(open_path, answer))
    child.start()
    child.join(10)
    assert child.exitcode == 0
    assert answer.get().startswith(f"{Denied.__name__}: no permission to listen at")
    answer.close()
