"""The SHA-256 of a file while its pieces arrive, so that its end has little left to hash.

libtorrent tells of a piece before the last of it is in the file. What it has not written yet is a
hole, at which reading stops. On a file system without holes, or in a file that was there before,
a piece may be read too early: that makes the digest wrong, never right, so a wrong one is computed
again from the whole file.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from aitorrent_seeding.library.means import Means
from aitorrent_seeding.session.torrent import Torrent
from aitorrent_seeding.torrents.hashing import digest_file
from aitorrentd.api import Unavailable, open_regular

_CHUNK: Final = 2**20
_AT_ONCE: Final = 16 * _CHUNK


class Digest:
    """Follows the pieces of the only file of a torrent, of `size` bytes.

    Peers that have everything are asked for pieces in order, so that reading keeps up; with others
    they are exchanged in libtorrent's order.
    """

    def __init__(
        self, means: Means, torrent: Torrent, path: Path, *, size: int, piece_length: int
    ) -> None:
        self._means = means
        self._torrent = torrent
        self._path = path
        self._size = size
        self._piece_length = piece_length
        self._whole = hashlib.sha256()
        self.hashed = 0
        "Bytes from the start of the file that are in the digest."
        self._hole = 0
        self._piece = 0

    async def follow(self, wants_all: Callable[[], bool]) -> None:
        """Hash pieces as they arrive until none is missing, if `wants_all` says that all will.

        Raises:
            Unavailable: the torrent stopped, and `problem` says why.
        """
        torrent = self._torrent
        while not torrent.is_whole:
            if torrent.problem:
                raise Unavailable(torrent.problem)
            before = self.hashed
            if wants_all():
                torrent.fetch_in_order(torrent.has_only_seeds)
                if (ready := self._ready()) > before:
                    async with self._means.hashing:
                        await asyncio.to_thread(self._advance, min(ready, before + _AT_ONCE))
            if self.hashed == before:
                await torrent.changed()

    def _ready(self) -> int:
        have = self._torrent.have
        while self._piece < len(have) and have[self._piece]:
            self._piece += 1
        return min(self._size, self._piece * self._piece_length)

    def _advance(self, stop: int) -> None:
        """Hash up to `stop`, or to the first hole."""
        try:
            fd = open_regular(self._path)
        except OSError:
            return  # `finish` reads the file again, and says what is wrong with it
        with open(fd, "rb", buffering=0), suppress(OSError):
            while self.hashed < stop:
                self._means.stop.check()
                end = min(self.hashed + _CHUNK, stop)
                if self._hole < end:  # looking costs time for each page before the hole
                    self._hole = _hole_after(fd, self.hashed)
                    if self._hole < end:
                        return
                chunk = os.pread(fd, end - self.hashed, self.hashed)
                if not chunk:
                    return
                self._whole.update(chunk)
                self.hashed += len(chunk)

    async def finish(self, wanted: str) -> str:
        """The SHA-256 of the file, which is whole and written; it should be `wanted`.

        Raises:
            Conflict: it changed meanwhile. NotFound, Denied, InvalidParams, Unavailable: it cannot
            be read.
        """
        async with self._means.hashing:
            await asyncio.to_thread(self._advance, self._size)
            if self.hashed == self._size and self._whole.hexdigest() == wanted:
                return wanted
            found, _ = await asyncio.to_thread(digest_file, self._path, self._means.stop)
            return found


def _hole_after(fd: int, at: int) -> int:
    """Where the next hole begins; the end of the file is one, too."""
    try:
        return os.lseek(fd, at, os.SEEK_HOLE)
    except OSError as e:
        if e.errno == errno.ENXIO:
            return at
        raise
