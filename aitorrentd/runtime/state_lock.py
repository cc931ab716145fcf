"""One daemon per state directory: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aitorrentd.errors import ConfigError, Conflict, Denied, Unavailable

LOCK_NAME: Final = "lock"
_MAX_PID_BYTES: Final = 32


def make_directory(path: Path, *, setting: str, mode: int = 0o700) -> None:
    """Make sure that `path` is a directory in which this process can write.

    Raises:
        Denied: it is not ours to write. ConfigError: anything else; `setting` is the way out.
    """
    try:
        if not path.is_dir():
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            path.chmod(mode)  # whatever the umask took away
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{path} is not a directory; move it away, or set {setting}") from None
    except OSError as e:
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(_not_writable(path, setting, e.strerror or "")) from None
        raise ConfigError(f"cannot make the directory {path}: {e.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
        raise Denied(_not_writable(path, setting, reason))


def _not_writable(path: Path, setting: str, reason: str) -> str:
    is_read_only = reason == os.strerror(errno.EROFS)
    remedy = "mount it writable" if is_read_only else f"give the directory to uid {os.geteuid()}"
    return f"cannot write in {path}: {reason.lower()}; set {setting}, or {remedy}"


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process while the block runs.

    Raises:
        Conflict: another daemon holds it; the message names its process. Denied: no permission.
        Unavailable: the disk takes nothing more.
    """
    path = state_dir / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise Denied(_not_writable(path, "node.state_dir", e.strerror or "")) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another daemon{_holder(fd)} uses the state directory {state_dir}; "
                "stop it, or set node.state_dir"
            ) from None
        _write_holder(fd, path)
        # The file stays: unlinking it would let two daemons lock two files of one name.
        yield
    finally:
        os.close(fd)


def _write_holder(fd: int, path: Path) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as e:
        # The first thing that is written, so this is where a full disk shows.
        raise Unavailable(
            f"cannot write {path}: {e.strerror}; free some space there, or set node.state_dir"
        ) from None


def _holder(fd: int) -> str:
    pid = os.pread(fd, _MAX_PID_BYTES, 0).strip()
    return f" (pid {pid.decode()})" if pid.isdigit() else ""
