"""What this node fetches and seeds: the `Weights` service on a running session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aitorrent_seeding.library.adding import add_file, add_torrent, fetch_metainfo
from aitorrent_seeding.library.download import Download
from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.library.fetch import FileFetch, checked_spans
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.room import Claim
from aitorrent_seeding.library.shelf import Shelf
from aitorrent_seeding.torrents import metainfo
from aitorrent_seeding.torrents.wanted import WantedTorrent
from aitorrentd.api import AitorrentError, InvalidParams, NotFound, ProtocolError
from aitorrentd.api.models.weights import Published, Span, WantedFile, WebSource, is_sha256


@dataclass(slots=True)
class _Running:
    download: Download
    task: asyncio.Task[None]
    fetches: set[FileFetch]


class Library:
    """The shelf, and the downloads that fill it."""

    def __init__(self, means: Means) -> None:
        self.means = means
        self.shelf = Shelf(means)
        self._running: dict[str, _Running] = {}

    async def fetch(self, file: WantedFile, *, ranges: Sequence[Span] | None = None) -> FileFetch:
        """Start to fetch a file, or join a fetch; see `Weights`."""
        if not is_sha256(file.sha256):
            raise InvalidParams(f"{file.sha256[:80]!r} is no SHA-256 of 64 lower-case digits")
        spans = None if ranges is None else checked_spans(ranges)
        await self.shelf.restored(sha256=file.sha256)
        await self.shelf.give_up(self.shelf.of_file(file.sha256))
        if self.shelf.of_file(file.sha256) is None:
            directory, size = self.means.directory, file.size if spans is None else 0
            await self.means.room.check(Claim(directory, (directory / file.sha256,), size))
        running = self._running.get(file.sha256)
        if running is None or running.download.is_over:
            running = self._start(file)
        else:
            running.download.web.add(file.sources)
            if running.download.entry:
                running.download.entry.torrent.pulse()
        fetch = FileFetch(running.download, self._forget)
        running.fetches.add(fetch)
        await running.download.want(fetch, spans)
        return fetch

    async def go_on(self) -> None:
        """Fetch what was fetched from the web, too, when the node stopped."""
        for held in list(self.means.store.held.values()):
            is_fetched = not held.is_whole and not held.is_paused and held.wanted is None
            if held.web and held.sha256 and is_fetched:
                sources = tuple(WebSource(url) for url in held.web)
                file = WantedFile(held.sha256, held.size, held.name, sources)
                self.means.tasks.spawn(self._whole(file), f"seeding: go on {held.sha256[:8]}")

    async def _whole(self, file: WantedFile) -> None:
        try:
            fetch = await self.fetch(file)
            try:
                await fetch.wait()
            finally:
                fetch.release()
        except AitorrentError as e:
            self.means.ctx.log.info("%s is not complete: %s", file.name, e.message)

    def _start(self, file: WantedFile) -> _Running:
        download = Download(self.means, self.shelf, file)
        task = self.means.tasks.spawn(download.run(), f"seeding: fetch {file.sha256[:8]}")
        running = self._running[file.sha256] = _Running(download, task, set())
        return running

    def _forget(self, fetch: FileFetch) -> None:
        running = self._running.get(fetch.download.file.sha256)
        if running is None or running.download is not fetch.download:
            return
        running.fetches.discard(fetch)
        self.means.tasks.spawn(fetch.download.unwant(fetch), "seeding: release")
        if not running.fetches:
            del self._running[fetch.download.file.sha256]
            running.task.cancel()

    async def offer(
        self,
        path: Path,
        *,
        sha256: str = "",
        published: Published | None = None,
        hybrid: bool = False,
        trackers: Sequence[str] = (),
        progress: Callable[[int], None] = lambda done: None,
    ) -> Entry:
        """Seed a file where it lies; see `Weights`."""
        return await add_file(
            self.means,
            self.shelf,
            path,
            sha256=sha256,
            published=published,
            hybrid=hybrid,
            trackers=trackers,
            progress=progress,
        )

    async def withdraw(self, sha256: str) -> None:
        """Stop seeding a file; see `Weights`."""
        await self.shelf.restored(sha256=sha256)
        entry = self.shelf.of_file(sha256)
        if entry is None:
            raise NotFound(f"{sha256[:80]} is not seeded here; see aitorrentctl torrents")
        await self.shelf.remove(entry, with_files=False)

    async def torrent(self, wanted: WantedTorrent) -> Entry:
        """Fetch a torrent by its info-hash.

        Raises:
            NotFound: no peer has its metainfo. ProtocolError: it is refused.
        """
        await self.shelf.restored(info_hash=wanted.info_hash)
        await self.shelf.give_up(self.shelf.get(wanted.info_hash))
        if there := self.shelf.get(wanted.info_hash):
            await self._call(there, wanted.name)
            return there
        raw = await fetch_metainfo(
            self.means, wanted.info_hash, trackers=wanted.trackers, peers=wanted.peers
        )
        if metainfo.read(raw).info_hash != wanted.info_hash:
            raise ProtocolError(f"a peer sent another torrent than {wanted.info_hash}")
        entry = await add_torrent(self.means, self.shelf, raw, trackers=wanted.trackers)
        await self._call(entry, wanted.name)
        entry.torrent.connect(wanted.peers)
        return entry

    async def _call(self, entry: Entry, name: str) -> None:
        """Name a canonical torrent, whose own name is the digest of its file."""
        if name and entry.held.name == entry.held.sha256:
            await self.means.store.change(entry.info_hash, name=name)

    async def torrent_file(self, raw: bytes) -> Entry:
        """Fetch what a .torrent file describes.

        Raises:
            ProtocolError, TooLarge: it is refused. Unavailable: there is no room.
        """
        return await add_torrent(self.means, self.shelf, raw)

    async def close(self) -> None:
        """Save the state of downloads."""
        self.means.stop.set()
        await self.shelf.close()
        self.means.nearby.directory.close()
