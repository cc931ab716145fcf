"""A fetch as others see it: progress, the whole file, bytes in order, or only some ranges."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from aitorrent_seeding.library.download import Download
from aitorrent_seeding.library.entry import Entry
from aitorrentd.api import InvalidParams, Unavailable, open_regular
from aitorrentd.api.models.weights import FetchProgress, Span

CHUNK: Final = 2**20
AHEAD: Final = 4
"Pieces that are urged before a reader needs them."
READABLE: Final = 0o640
"Workers, which load ranges of a file, run as another user in the daemon's group."
MAX_SPANS: Final = 100_000


def checked_spans(ranges: Sequence[Span]) -> tuple[Span, ...]:
    """The ranges, if each is one.

    Raises:
        InvalidParams: one is empty or negative, or there are too many.
    """
    if len(ranges) > MAX_SPANS:
        raise InvalidParams(f"{len(ranges)} ranges; at most {MAX_SPANS}")
    for start, stop in ranges:
        if not 0 <= start < stop:
            raise InvalidParams(f"[{start}, {stop}) is not a range of bytes")
    return tuple((start, stop) for start, stop in ranges)


class FileFetch:
    """One caller's part of a download."""

    def __init__(self, download: Download, forget: Callable[[FileFetch], None]) -> None:
        self.download = download
        self._forget = forget

    def progress(self) -> FetchProgress:
        """The state now."""
        return self.download.progress(self)

    async def wait(self) -> Path:
        """Wait for the whole file; see `Fetch`."""
        await self.download.want(self, None)
        while not self.download.is_over:
            await self.download.changed()
        if self.download.error:
            raise self.download.error
        return self.download.path

    async def want(self, ranges: Sequence[Span]) -> Path:
        """Fetch only these ranges, and wait for them; see `Fetch`."""
        spans = checked_spans(ranges)
        await self.download.want(self, spans)
        while not await self._has(entry := await self._entry(), spans):
            pass  # the torrent was another file: the next one is tried
        await entry.torrent.flush()
        if not entry.held.own_path and not entry.held.is_whole:
            with contextlib.suppress(OSError):
                entry.path.chmod(READABLE)
        return entry.path

    async def _has(self, entry: Entry, spans: Sequence[Span]) -> bool:
        """Wait until the ranges are here; False if the torrent was discarded for another one."""
        try:
            return await entry.torrent.until(lambda: entry.has(spans))
        except Unavailable:
            if not entry.torrent.has_left:
                raise
        while self.download.entry is entry and not self.download.is_over:
            await self.download.changed()
        if self.download.error:
            raise self.download.error
        if self.download.entry is entry:
            raise Unavailable("the torrent was removed")
        return False

    async def _entry(self) -> Entry:
        """The torrent, once there is one."""
        download = self.download
        while (entry := download.entry) is None:
            if download.error:
                raise download.error
            await download.changed()
        return entry

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes of [start, stop) in order; see `Fetch`."""
        download, at = self.download, start
        while at < stop:
            if download.error:
                raise download.error
            if download.size:
                stop = min(stop, download.size)
            if download.is_verified or (download.entry and download.entry.held.is_whole):
                chunk = await asyncio.to_thread(_read_at, download.path, at, min(stop - at, CHUNK))
            elif download.entry:
                chunk = await self._from_torrent(download.entry, at, stop)
            elif (ready := min(stop, download.plain, max(0, download.size - CHUNK))) > at:
                # Unverified: the end is held back, so that a wrong file is never seen whole.
                size = min(ready - at, CHUNK)
                chunk = await asyncio.to_thread(_read_at, download.path, at, size)
            else:
                await download.changed()
                continue
            if not chunk:
                raise Unavailable(f"{download.path} ends at {at}")
            at += len(chunk)
            yield chunk

    async def _from_torrent(self, entry: Entry, at: int, stop: int) -> bytes:
        length = entry.meta.piece_length
        piece = at // length
        ahead = range(piece, min(piece + AHEAD, -(-stop // length)))
        entry.urgent.update(ahead)
        for n, index in enumerate(ahead):
            if n and not entry.torrent.have[index]:
                entry.torrent.urge(index, after_ms=1000 * n)
        try:
            content = await entry.torrent.piece(piece)
        finally:
            entry.urgent.subtract(ahead)
            for index in ahead:
                if not entry.urgent[index]:
                    del entry.urgent[index]
        start = piece * length
        return content[at - start : min(stop, start + length) - start]

    def release(self) -> None:
        """No longer wait for it."""
        self._forget(self)


def _read_at(path: Path, at: int, count: int) -> bytes:
    try:
        fd = open_regular(path)
    except OSError as e:
        raise Unavailable(f"cannot read {path}: {e.strerror}") from None
    try:
        return os.pread(fd, count, at)
    finally:
        os.close(fd)
