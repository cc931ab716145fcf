"""Creates the file of a Unix socket: without a race on its mode, and never over a live daemon.

A dead daemon's file blocks bind(2). Only connecting shows whether the daemon is dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.errors import Conflict, Denied, InvalidParams, TimedOut, Unavailable
from aitorrentd.system.paths import MAX_SOCKET_BYTES

BACKLOG: Final = 128
"Connections that wait to be accepted."
_LOCK_WAIT_S: Final = 2.0
_LOCK_POLL_S: Final = 0.02


@dataclass(slots=True)
class BoundSocket:
    """A listening socket and the file that it made."""

    sock: socket.socket
    path: Path
    file: tuple[int, int, int]
    "Device, inode and birth time of the file: inode numbers are reused."
    remark: str = ""
    "A warning for the log."

    def is_there(self) -> bool:
        """Whether the file is still where clients look for it."""
        try:
            return _which(self.path) == self.file
        except OSError:
            return False

    def remove_file(self) -> None:
        """Delete the file, unless another daemon has since put its own there."""
        if self.is_there():
            with suppress(FileNotFoundError):
                self.path.unlink()


def bind(
    path: Path, *, mode: int, gid: int | None, group: str, setting: str = "control.socket"
) -> BoundSocket:
    """A listening socket at `path` with this mode and group. Blocks up to 2 s. `setting` is what
    the user changes to choose another path; the errors name it.

    No client can connect before the mode is set: listen(2) comes last.

    Raises:
        Conflict, Denied, InvalidParams, TimedOut, Unavailable: each with what to do.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
        raise InvalidParams(
            f"the socket path {path} is longer than {MAX_SOCKET_BYTES} bytes; "
            f"set {setting} to a shorter one"
        )
    try:
        # A user's own directory is private; the system's must admit the group.
        if not path.parent.is_dir():
            mode_above = 0o755 if os.geteuid() == 0 else 0o700
            path.parent.mkdir(parents=True, exist_ok=True, mode=mode_above)
            path.parent.chmod(mode_above)  # regardless of the umask
        with _only_one(path.parent):
            _clear(path, setting)
            return _bind(path, mode, gid, group)
    except PermissionError:
        raise Denied(
            f"no permission to listen at {path}; set {setting} to a path you may write to"
        ) from None
    except OSError as e:
        raise Unavailable(f"cannot listen at {path}: {os.strerror(e.errno or 0)}") from None


def _bind(path: Path, mode: int, gid: int | None, group: str) -> BoundSocket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(os.fspath(path))
        os.chmod(path, 0o600)
        remark = ""
        if gid is None:
            remark = f"there is no group {group}; only root and this user may operate the daemon"
        else:
            try:
                os.chown(path, -1, gid)
            except PermissionError:
                remark = f"{path} keeps the group of this user; only root may change it to {group}"
        os.chmod(path, mode)
        sock.listen(BACKLOG)
        file = _which(path)
    except BaseException:
        sock.close()
        raise
    return BoundSocket(sock, path, file, remark)


def _which(path: Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _clear(path: Path, setting: str) -> None:
    """Remove the socket file of a daemon that is dead."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise Conflict(f"{path} exists and is not a socket; move it away or set {setting}")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(os.fspath(path))
    except OSError as e:
        if e.errno == errno.ECONNREFUSED:
            path.unlink()
            return
        if e.errno == errno.ENOENT:
            return
        if e.errno != errno.EAGAIN:  # EAGAIN: it is listening, and its backlog is full
            raise
    finally:
        probe.close()
    raise Conflict(
        f"another daemon is listening at {path}; stop it first, or set {setting} to another path"
    )


@contextmanager
def _only_one(directory: Path, wait_s: float = _LOCK_WAIT_S) -> Iterator[None]:
    """Two daemons that start at once must not delete each other's new socket."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pause = threading.Event()
    deadline = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimedOut(f"{directory} is locked by another process") from None
                pause.wait(_LOCK_POLL_S)
        yield
    finally:
        os.close(fd)
