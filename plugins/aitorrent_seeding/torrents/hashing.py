"""Hashes a file in one pass: the SHA-1 of its pieces and the SHA-256 of the whole.

Each byte is read once. The two digests are computed on two threads, since hashlib releases the
interpreter's lock, in chunks that fit into a processor's cache.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
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

_CHUNK: Final = 2**20
"Read at once; every piece length is a multiple of it."
_AHEAD: Final = 8
"Chunks by which one digest may be ahead of the other."


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
    whole, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK))
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
    chunks = [memoryview(bytearray(_CHUNK)) for _ in range(_AHEAD)]
    done, turn = 0, 0
    while done <= size:  # a file that somebody appends to would never end
        stop.check()
        hasher.leave(_AHEAD - 1)
        chunk = chunks[turn]
        try:
            filled = _read_into(fd, chunk)
        except OSError as e:
            raise Unavailable(f"cannot read {path}: {e.strerror}; check the disk (dmesg)") from None
        if not filled:
            return
        hasher.update(chunk[:filled])
        done += filled
        if done % hasher.piece_length == 0 or done >= size:
            progress(done)
        turn = (turn + 1) % _AHEAD


def _read_into(fd: int, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (n := os.readv(fd, [buffer[filled:]])):
        filled += n
    return filled


class _Pass:
    """The running hashes: SHA-256 on the thread that calls, those of pieces on another."""

    def __init__(self, length: int, *, hybrid: bool) -> None:
        self.piece_length = length
        self.pool = ThreadPoolExecutor(1, "hashing")
        self._whole = hashlib.sha256()
        self._piece = hashlib.sha1(usedforsecurity=False)
        self._pieces: list[bytes] = []
        self._leaves: list[bytes] = []
        self._layer: list[bytes] | None = [] if hybrid else None
        self._size = 0
        self._pending: deque[Future[None]] = deque()

    def leave(self, chunks: int) -> None:
        """Wait until at most so many of the given chunks are still read."""
        while len(self._pending) > chunks:
            self._pending.popleft().result()

    def update(self, chunk: memoryview) -> None:
        """Hash the next chunk, which must stay as it is until `leave` says so.

        All but the last have the same length, of which the length of a piece is a multiple.
        """
        self._size += len(chunk)
        self._pending.append(self.pool.submit(self._in_piece, chunk, self._size))
        self._whole.update(chunk)

    def _in_piece(self, chunk: memoryview, size: int) -> None:
        self._piece.update(chunk)
        if self._layer is not None:
            self._leaves += [
                hashlib.sha256(chunk[i : i + BLOCK]).digest() for i in range(0, len(chunk), BLOCK)
            ]
        if size % self.piece_length == 0:
            self._end_piece()

    def _end_piece(self) -> None:
        self._pieces.append(self._piece.digest())
        self._piece = hashlib.sha1(usedforsecurity=False)
        if self._layer is not None:
            if self._pieces[1:]:  # a piece of several is a whole tree, filled up with zeros
                missing = self.piece_length // BLOCK - len(self._leaves)
                self._leaves += [bytes(32)] * missing
            self._layer.append(merkle_root(self._leaves))
            self._leaves = []

    def result(self) -> FileHashes:
        """The hashes of everything."""
        self.leave(0)
        if self._size % self.piece_length:
            self._end_piece()
        return FileHashes(
            self._size,
            self._whole.hexdigest(),
            self.piece_length,
            b"".join(self._pieces),
            b"".join(self._layer or ()),
        )
