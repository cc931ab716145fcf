"""Hashes a file in one pass: the SHA-1 of its pieces and the SHA-256 of the whole.

Each byte is read once. The two digests of a piece are computed on two threads, since hashlib
releases the interpreter's lock.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrent_seeding.torrents.canonical import (
    BLOCK,
    FileHashes,
    merkle_root,
    piece_length,
)
from aitorrentd.api import Conflict, Denied, InvalidParams, NotFound, Unavailable, open_regular

_READ: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file looked like; a file that is written looks different afterwards."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of the file at `path`, or None if there is none that can be seen."""
    try:
        return Stamp.of(os.stat(path))
    except OSError:
        return None


class Stop:
    """Tells a pass that runs on another thread to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End the pass at the next piece."""
        self._event.set()

    def check(self) -> None:
        """Raise Unavailable if the pass is to end."""
        if self._event.is_set():
            raise Unavailable("hashing was interrupted")


def open_file(path: Path) -> tuple[int, Stamp]:
    """A descriptor of the regular file at `path`, which is not a symbolic link, and its stamp.

    Raises:
        NotFound, Denied, InvalidParams, Unavailable: it cannot be read, or is something else.
    """
    try:
        if stat.S_ISLNK(os.lstat(path).st_mode):
            raise InvalidParams(f"{path} is a symbolic link; name the file that it points to")
        fd = open_regular(path)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except PermissionError:
        raise Denied(
            f"cannot read {path} as uid {os.geteuid()}; let the user of the daemon read it"
        ) from None
    except OSError as e:
        raise InvalidParams(f"cannot read {path}: {e.strerror}") from None
    return fd, Stamp.of(os.fstat(fd))


def hash_file(
    path: Path,
    *,
    hybrid: bool = False,
    stop: Stop | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[FileHashes, Stamp]:
    """The hashes of a file, and its stamp; blocks, so run it on a thread.

    `progress` is called from that thread with the number of bytes read so far.

    Raises:
        InvalidParams: the file is empty. Conflict: it changed meanwhile. NotFound, Denied,
        Unavailable: it cannot be read.
    """
    fd, stamp = open_file(path)
    with open(fd, "rb", buffering=0) as file:
        if stamp.size == 0:
            raise InvalidParams(f"{path} is empty; an empty file makes no torrent")
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        hasher = _Pass(piece_length(stamp.size), hybrid=hybrid)
        with hasher.pool:
            _feed(file.fileno(), stamp.size, hasher, stop or Stop(), progress, path)
        found = hasher.result()
        if found.size != stamp.size or Stamp.of(os.fstat(fd)) != stamp:
            raise Conflict(f"{path} changed while it was hashed; share it when it is complete")
    return found, stamp


def digest_file(path: Path, stop: Stop) -> tuple[str, Stamp]:
    """The SHA-256 of a file whose pieces are verified already, and its stamp; blocks.

    Raises:
        Conflict: it changed meanwhile. NotFound, Denied, InvalidParams, Unavailable: it cannot be
        read.
    """
    fd, stamp = open_file(path)
    whole, buffer = hashlib.sha256(), memoryview(bytearray(_READ))
    with open(fd, "rb", buffering=0) as file:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        left = stamp.size
        while left > 0:
            stop.check()
            try:
                filled = file.readinto(buffer)
            except OSError as e:
                text = f"cannot read {path}: {e.strerror}; check the disk (dmesg)"
                raise Unavailable(text) from None
            if not filled:
                break
            whole.update(buffer[:filled])
            left -= filled
        if left or Stamp.of(os.fstat(fd)) != stamp:
            raise Conflict(f"{path} changed while it was verified")
    return whole.hexdigest(), stamp


def _feed(
    fd: int,
    size: int,
    hasher: _Pass,
    stop: Stop,
    progress: Callable[[int], None],
    path: Path,
) -> None:
    buffers = [bytearray(hasher.piece_length), bytearray(hasher.piece_length)]
    done, turn = 0, 0
    while done <= size:  # a file that somebody appends to would never end
        stop.check()
        piece = memoryview(buffers[turn])
        try:
            filled = _read_into(fd, piece)
        except OSError as e:
            raise Unavailable(f"cannot read {path}: {e.strerror}; check the disk (dmesg)") from None
        if not filled:
            return
        hasher.update(piece[:filled])
        done += filled
        progress(done)
        turn ^= 1


def _read_into(fd: int, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        n = os.readv(fd, [buffer[filled : filled + _READ]])
        if not n:
            break
        filled += n
    return filled


class _Pass:
    """The running hashes; reading of a piece overlaps with hashing of the one before."""

    def __init__(self, length: int, *, hybrid: bool) -> None:
        self.piece_length = length
        self.pool = ThreadPoolExecutor(2, "hashing")
        self._whole = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._layer: list[bytes] | None = [] if hybrid else None
        self._size = 0
        self._pending: list[Callable[[], object]] = []

    def update(self, piece: memoryview) -> None:
        """Hash the next piece; all but the last have the full length. The one before is done."""
        self._join()
        self._size += len(piece)
        whole = self.pool.submit(self._whole.update, piece)
        one = self.pool.submit(self._one, piece)
        self._pending = [whole.result, one.result]

    def _one(self, piece: memoryview) -> None:
        self._pieces.append(hashlib.sha1(piece, usedforsecurity=False).digest())
        if self._layer is not None:
            self._layer.append(self._v2(piece))

    def _v2(self, piece: memoryview) -> bytes:
        leaves = [
            hashlib.sha256(piece[i : i + BLOCK]).digest() for i in range(0, len(piece), BLOCK)
        ]
        if self._pieces[1:]:  # a piece of several is a whole tree, filled up with zeros
            leaves += [bytes(32)] * (self.piece_length // BLOCK - len(leaves))
        return merkle_root(leaves)

    def _join(self) -> None:
        for result in self._pending:
            result()
        self._pending = []

    def result(self) -> FileHashes:
        """The hashes of everything."""
        self._join()
        layer = b"".join(self._layer or ())
        return FileHashes(
            self._size,
            self._whole.hexdigest(),
            self.piece_length,
            b"".join(self._pieces),
            layer,
        )
