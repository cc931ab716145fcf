"""Which pieces of a file are already there: what a crash left behind the last saved state.

Only pieces that the saved state lacks are read, and holes of a sparse file are not.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aitorrent_seeding.torrents.hashing import Stop
from aitorrentd.api import open_regular


def pieces_there(
    path: Path, hashes: bytes, piece_length: int, known: Sequence[bool], stop: Stop
) -> list[bool]:
    """For each piece whether it is in the file, given those that are `known` to be; blocks.

    A file that cannot be read has none.
    """
    pieces = len(hashes) // 20
    have = [index < len(known) and bool(known[index]) for index in range(pieces)]
    try:
        fd = open_regular(path)
    except OSError:
        return [False] * pieces
    with open(fd, "rb", buffering=0) as file:
        for index in _with_content(fd, os.fstat(fd).st_size, piece_length):
            stop.check()
            if index >= pieces:
                break
            if not have[index]:
                file.seek(index * piece_length)
                found = hashlib.sha1(_read(fd, piece_length), usedforsecurity=False).digest()
                have[index] = found == hashes[20 * index : 20 * index + 20]
    return have


def _read(fd: int, count: int) -> bytes:
    parts = []
    while count and (part := os.read(fd, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _with_content(fd: int, size: int, piece_length: int) -> Iterator[int]:
    """Pieces that lie, at least in part, outside of the file's holes."""
    at, last = 0, -1
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return
            start = at  # a file system that knows no holes
        try:
            at = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:
            at = size
        for index in range(max(last + 1, start // piece_length), -(-at // piece_length)):
            last = index
            yield index
