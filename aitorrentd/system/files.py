"""Files: opened without blocking, replaced or created atomically, and writable directories.

A reader of a file that `replace_file` or `create_file` writes sees the old content or the new,
never a part: the content is written beside it under another name and renamed or linked into place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from aitorrentd.errors import AitorrentError, ConfigError, Denied, Unavailable

DAMAGED: Final = ".damaged"
"Added to the name of a file that is set aside."
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_SUCH_PLACE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
    | {errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO}
)
_NO_FSYNC: Final = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)
_NO_HARD_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def was_replaced_outside(path: Path) -> bool:
    """Whether `path` is a mount of a single file that has been replaced where it comes from.

    A bind mount holds the file, not its name: an editor that writes a new file under the name, as
    most do, is not seen here. Format: proc_pid_mountinfo(5).
    """
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    for line in mounts.splitlines():
        _, _, _, root, place, *_ = line.split(" ")
        if root.endswith("//deleted") and place == str(path):
            return True
    return False


def open_regular(path: Path) -> int:
    """A descriptor for reading the regular file at `path`; the caller closes it.

    Never blocks: a FIFO of that name is refused like every other file that is not regular.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of the regular file at `path`; one byte more than `max_bytes` if it is longer.

    Raises:
        OSError: as in `open_regular`, or it cannot be read.
    """
    with open(open_regular(path), "rb") as file:
        return file.read(max_bytes + 1)


def replace_file(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Write `content` to the file at `path`, existing or not, with exactly `mode`.

    With `durable` it survives a power cut; without, the call does not wait for the disk.

    Raises:
        OSError: it cannot be written; the file is unchanged.
    """
    with _beside(path, content, mode=mode, durable=durable) as temporary:
        os.rename(temporary, path)
    if durable:
        fsync_directory(path.parent)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes the one at `path` if the block ends without an error.

    For content that memory does not hold. Its mode is as the umask has it, and nothing waits for
    the disk.

    Raises:
        OSError: it cannot be written, or `path` is a directory; what is there is unchanged.
    """
    # A name of its own: that of `path` may be as long as names can be.
    temporary = path.with_name(f".aitorrent.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.rename(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def create_file(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Write `content` to a new file at `path`; False if the file exists, which is left alone.

    If several processes create the same file, exactly one succeeds.

    Raises:
        OSError: it cannot be written.
    """
    with _beside(path, content, mode=mode, durable=True) as temporary:
        created = _link(temporary, path)
    fsync_directory(path.parent)
    return created


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)  # link(2) never replaces
    except FileExistsError:
        return False
    except OSError as e:
        if e.errno not in _NO_HARD_LINKS:
            raise
        # A file system without hard links; the lock on the state directory keeps other daemons
        # away.
        if path.exists():
            return False
        os.rename(temporary, path)
    return True


def set_aside(path: Path) -> Path:
    """Rename a damaged file, replacing an earlier damaged one; returns its new path.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(path.name + DAMAGED)
    os.rename(path, aside)
    return aside


def set_database_aside(path: Path) -> Path:
    """Like `set_aside`, for a closed SQLite database; what its last writers left beside it goes.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = set_aside(path)
    for part in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + part).unlink()
    return aside


@contextlib.contextmanager
def _beside(path: Path, content: bytes, *, mode: int, durable: bool) -> Iterator[Path]:
    """A file with `content` in the directory of `path`, deleted after the block unless renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)  # regardless of the umask
            if durable:
                os.fsync(fd)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def fsync_directory(directory: Path) -> None:
    """Make names added to `directory` survive a power cut."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        # Some network and FUSE file systems cannot; their servers decide when names are durable.
        if e.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(fd)


def make_directory(path: Path, *, setting: str, mode: int = 0o700) -> None:
    """Ensure that `path` is a directory that this process can write to.

    Raises:
        Denied, Unavailable, ConfigError: as in `cannot_write`.
    """
    try:
        if not path.is_dir():
            path.mkdir(mode=mode, parents=True, exist_ok=True)
            path.chmod(mode)  # regardless of the umask
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{path} is not a directory; move it away, or set {setting}") from None
    except OSError as e:
        raise cannot_write(path, e, setting=setting) from None
    if not os.access(path, os.W_OK | os.X_OK):
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        number = errno.EROFS if is_read_only else errno.EACCES
        raise cannot_write(path, OSError(number, os.strerror(number)), setting=setting)


def cannot_write(path: Path, error: OSError, *, setting: str) -> AitorrentError:
    """The error for a path of the daemon's own that cannot be written, with remedies.

    Denied: no permission. ConfigError: no such file can exist, so `setting`, which chooses the
    path, is wrong. Unavailable: the disk is full or failing, which may be temporary.
    """
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = f"chown it to uid {os.geteuid()}"
        # From the root down: below a directory that may not be entered, nothing can be examined.
        barred = next((p for p in reversed(path.parents) if not os.access(p, os.X_OK)), None)
        if barred is not None:
            remedy = f"let uid {os.geteuid()} enter {barred} (chmod +x)"
        return Denied(f"cannot write to {path}: {reason}; set {setting}, or {remedy}")
    if error.errno == errno.EROFS:
        return Denied(f"cannot write to {path}: {reason}; set {setting}, or remount it writable")
    if error.errno in _NO_SUCH_PLACE:
        return ConfigError(f"cannot write to {path}: {reason}; set {setting} to another place")
    if error.errno == errno.ENOSPC:
        reason = "the disk is full"
    remedy = "free some space there" if error.errno in _FULL else "check the disk (dmesg)"
    return Unavailable(f"cannot write to {path}: {reason}; {remedy}, or set {setting}")
