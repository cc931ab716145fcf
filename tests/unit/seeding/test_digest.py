"""The digest of a file whose pieces arrive, in a file that has holes until they are written."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libtorrent as lt
import pytest

from aitorrent_seeding.library import digest as module
from aitorrent_seeding.library.digest import Digest
from aitorrent_seeding.session.torrent import Counts, Torrent
from aitorrent_seeding.torrents.hashing import Stop
from aitorrentd.api import Unavailable
from aitorrentd.api.tasks import beside
from tests.support.nodes import wait_for

PIECE = 2**20
CONTENT = bytes(range(256)) * (3 * PIECE // 256) + b"the end"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handle:
    """libtorrent's handle: remembers its flags."""

    def __init__(self) -> None:
        self.flags = 0

    def set_flags(self, flags: int) -> None:
        self.flags |= int(flags)

    def unset_flags(self, flags: int) -> None:
        self.flags &= ~int(flags)


class Arriving:
    """A torrent of four pieces whose file is written when a test says so."""

    def __init__(self, path: Path) -> None:
        self.handle = Handle()
        self.torrent = Torrent(self.handle, 4)
        self.torrent.is_checked = True
        self.path = path
        means: Any = SimpleNamespace(hashing=asyncio.Semaphore(1), stop=Stop())
        self.digest = Digest(means, self.torrent, path, size=len(CONTENT), piece_length=PIECE)

    def write(self, *pieces: int) -> None:
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            for piece in pieces:
                file.seek(piece * PIECE)
                file.write(CONTENT[piece * PIECE : (piece + 1) * PIECE])

    def tell(self, *pieces: int) -> None:
        for piece in pieces:
            self.torrent.has_piece(piece)


@pytest.fixture
def arriving(tmp_path: Path) -> Arriving:
    return Arriving(tmp_path / "f")


async def test_pieces_are_hashed_once_and_as_soon_as_they_are_written(
    arriving: Arriving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(module, "digest_file")  # would read the file again
    async with beside(arriving.digest.follow(lambda: True), "follow") as following:
        arriving.write(0, 2)
        arriving.tell(2, 0, 1)  # piece 1 is still a hole
        await wait_for(lambda: arriving.digest.hashed == PIECE)
        arriving.write(1)
        arriving.torrent.pulse()
        await wait_for(lambda: arriving.digest.hashed == 3 * PIECE)
        arriving.write(3)
        arriving.tell(3)
        await following
    assert await arriving.digest.finish(SHA256) == SHA256


async def test_piece_that_was_read_too_early_is_read_again(arriving: Arriving) -> None:
    arriving.path.write_bytes(bytes(len(CONTENT)))
    async with beside(arriving.digest.follow(lambda: True), "follow") as following:
        arriving.tell(0)
        await wait_for(lambda: arriving.digest.hashed == PIECE)
        arriving.write(0, 1, 2, 3)
        arriving.tell(1, 2, 3)
        await following
    assert await arriving.digest.finish(SHA256) == SHA256
    os.truncate(arriving.path, 5)
    assert await arriving.digest.finish(SHA256) == hashlib.sha256(CONTENT[:5]).hexdigest()


async def test_seeds_are_asked_in_order_and_others_are_not(arriving: Arriving) -> None:
    in_order = int(lt.torrent_flags.sequential_download)
    async with beside(arriving.digest.follow(lambda: True), "follow") as following:
        arriving.torrent.counts = Counts(peers=2, seeds=2)
        arriving.torrent.pulse()
        await wait_for(lambda: arriving.handle.flags == in_order)
        arriving.torrent.counts = Counts(peers=3, seeds=2)
        arriving.torrent.pulse()
        await wait_for(lambda: arriving.handle.flags == 0)
        arriving.torrent.counts = Counts(peers=2, seeds=2)
        arriving.torrent.pulse()
        await wait_for(lambda: arriving.handle.flags == in_order)
        arriving.torrent.counts = Counts()  # who comes first may be no seed
        arriving.torrent.pulse()
        await wait_for(lambda: arriving.handle.flags == 0)
        arriving.torrent.stopped_by(0, "trouble", "")
        with pytest.raises(Unavailable, match="trouble"):
            await following


async def test_nothing_is_read_for_ranges(arriving: Arriving) -> None:
    arriving.write(0, 1, 2, 3)
    arriving.tell(0, 1, 2, 3)
    await arriving.digest.follow(lambda: False)
    assert (arriving.digest.hashed, arriving.handle.flags) == (0, 0)
