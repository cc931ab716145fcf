"""One daemon per state directory: a lock that ends with its process, however the process ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aitorrentd.errors import AitorrentError, ConfigError, Conflict, Unavailable
from aitorrentd.system.files import cannot_write

LOCK_NAME: Final = "lock"
_NEVER: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_MAX_PID_BYTES: Final = 32


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state directory for this process while the block runs.

    Raises:
        Conflict: another daemon holds it; the message names its process. Denied,
        Unavailable, ConfigError: it cannot be locked, or cannot be written, as `cannot_write` says.
    """
    path = state_dir / LOCK_NAME
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise cannot_write(path, e, setting="node.state_dir") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another daemon{_holder(fd)} uses the state directory {state_dir}; "
                "stop it, or set node.state_dir"
            ) from None
        except OSError as e:
            raise _no_locks(path, e) from None
        _write_holder(fd, path)
        # The file stays: unlinking it would let two daemons lock two files of the same name.
        yield
    finally:
        os.close(fd)


def _no_locks(path: Path, error: OSError) -> AitorrentError:
    """A network file system may have no locks, or none while its lock server is down."""
    text = f"cannot lock {path}: {error.strerror}; set node.state_dir to a local disk"
    return ConfigError(text) if error.errno in _NEVER else Unavailable(text)


def _write_holder(fd: int, path: Path) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as e:
        # This is the first write, so a full disk shows here.
        raise cannot_write(path, e, setting="node.state_dir") from None


def _holder(fd: int) -> str:
    pid = os.pread(fd, _MAX_PID_BYTES, 0).strip()
    return f" (pid {pid.decode()})" if pid.isdigit() else ""


def holder(state_dir: Path) -> int | None:
    """The process that holds the state directory, or None; takes no lock, so it disturbs nothing.

    Format: proc_locks(5).
    """
    try:
        inode = (state_dir / LOCK_NAME).stat().st_ino
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, kind, _, _, pid, file, *_ = line.split()
        if kind == "FLOCK" and file.rpartition(":")[2] == str(inode) and int(pid) > 0:
            return int(pid)
    return None
