"""A file on its way, by its digest: from a swarm and the web together, or from the web alone.

The web starts at once while indexes are asked. When a torrent is found, its pieces among the bytes
that came so far are kept. Without any torrent the file comes from the web alone, and its canonical
torrent is made of it, so that the next node finds a swarm.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aitorrent_seeding.library.adding import add_known, add_whole
from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.library.keeping import make_read_only
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.room import Claim
from aitorrent_seeding.library.shelf import Shelf
from aitorrent_seeding.library.webfeed import feed
from aitorrent_seeding.session.torrent import Awaited
from aitorrent_seeding.sources.web import WebFile
from aitorrent_seeding.torrents.hashing import hash_file
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    NotFound,
    PeerId,
    ProtocolError,
    ShuttingDown,
    TransferFailed,
    Unavailable,
)
from aitorrentd.api.models.weights import FetchProgress, Span, WantedFile
from aitorrentd.api.tasks import beside

_WRITE: Final = 4 * 2**20
_SEARCHES: Final = 5
_SEARCH_S: Final = 2.0


class Download:
    """One file that somebody wants; several fetches share it."""

    def __init__(self, means: Means, shelf: Shelf, file: WantedFile) -> None:
        self.file = file
        self.entry: Entry | None = None
        "Once a torrent of it is here."
        self.plain = 0
        "Bytes from the start of the file that came from the web alone."
        self.is_verified = False
        self.error: AitorrentError | None = None
        self.web = WebFile(means.http, file.sources, file.size, means.ctx.clock)
        self._means = means
        self._shelf = shelf
        self._refused: set[str] = set()
        self._vouched: dict[str, PeerId] = {}
        "Who said of which torrent that it is this file."
        self._wants: dict[object, Sequence[Span] | None] = {}
        self._pulse = Awaited[None]()

    @property
    def path(self) -> Path:
        """Where the file lies, or will lie."""
        return self.entry.path if self.entry else self._means.directory / self.file.sha256

    @property
    def size(self) -> int:
        """Bytes of the file; 0 = unknown."""
        return self.entry.meta.size if self.entry else self.web.size

    @property
    def is_over(self) -> bool:
        """Whether it ended, well or not."""
        return self.is_verified or self.error is not None

    async def changed(self) -> None:
        """Wait until bytes came from the web alone, a torrent took over, or it ended."""
        await self._pulse.future()

    def _tell(self) -> None:
        self._pulse.settle(None)

    async def want(self, who: object, spans: Sequence[Span] | None) -> None:
        """Fetch these ranges for `who`; None = everything."""
        self._wants[who] = spans
        if self.entry:
            await self.entry.want(who, spans)

    async def unwant(self, who: object) -> None:
        """`who` wants nothing more."""
        self._wants.pop(who, None)
        if self.entry:
            await self.entry.unwant(who)

    def _wanted(self) -> tuple[Span, ...] | None:
        """The ranges that somebody wants; None = everything."""
        wants = self._wants.values()
        return None if None in wants else tuple(span for spans in wants for span in spans or ())

    # Its life

    async def run(self) -> None:
        """Fetch the file, verify it, seed it. How it ended is in `is_verified` and `error`."""
        try:
            await self._fetch()
            self.is_verified = True
        except AitorrentError as e:
            self.error = e
        finally:
            if not self.is_over:  # cancelled, or the plugin is restarted
                self.error = ShuttingDown("the node stops; the download goes on when it is back")
            self._tell()

    async def _fetch(self) -> None:
        while True:
            if entry := self._shelf.of_file(self.file.sha256) or await self._join():
                try:
                    await self._with(entry)
                    return
                except ProtocolError as e:
                    self._means.ctx.log.warning("%s", e.message)
                    self._refused.add(entry.info_hash)
                    self._blame(entry)
                    self.web.forgive(entry.info_hash)
                    self.entry = None
                    await self._shelf.remove(entry, with_files=True)
                    continue
            if not self._shelf.of_file(self.file.sha256):
                raise self._nowhere()

    def _blame(self, entry: Entry) -> None:
        if node := self._vouched.get(entry.info_hash):
            wasted = entry.from_peers
            self._means.ctx.publish(
                TransferFailed(node, self.file.sha256, wasted, "wrong file", entry.info_hash)
            )

    def _nowhere(self) -> AitorrentError:
        digest, problem = self.file.sha256, self.web.problem
        if self._refused:
            return ProtocolError(
                f"no source sent the file {digest}; {problem or 'all sent others'}"
            )
        if problem:
            return NotFound(f"nobody shares {digest}, and the web fails: {problem}")
        return NotFound(
            f"nobody is known to share {digest}; share it on another node, or name a URL"
        )

    async def _join(self) -> Entry | None:
        """A torrent of the file; None if there is none and the web has no file either."""
        if not self.web.is_usable:
            return await self._search()
        # Pieces can be verified only with a torrent: without one, ranges cost the whole file.
        if self._is_partial and (found := await self._search()):
            return found
        async with beside(self._from_web(), "seeding: plain download") as plain:
            if found := await self._from_indexes(plain):
                return found
            await asyncio.wait({plain})
            return None if plain.cancelled() else plain.result()

    @property
    def _is_partial(self) -> bool:
        return bool(self._wants) and None not in self._wants.values()

    async def _search(self) -> Entry | None:
        """A torrent of the file, once an index knows one: nodes may only just have connected."""
        for attempt in range(_SEARCHES):
            if attempt:
                await asyncio.sleep(_SEARCH_S)
            if found := await self._from_indexes():
                return found
        return None

    async def _from_indexes(self, plain: asyncio.Task[Entry | None] | None = None) -> Entry | None:
        for torrent in await self._means.find(self.file.sha256):
            is_it = not self.file.size or torrent.size == self.file.size
            if torrent.info_hash in self._refused or not is_it:
                continue
            if torrent.publisher:
                self._vouched[torrent.info_hash] = torrent.publisher
            try:
                return await add_known(
                    self._means,
                    self._shelf,
                    torrent,
                    name=self.file.name,
                    wanted=self._wanted(),
                    stop=plain,
                )
            except Conflict:
                return self._shelf.of_file(self.file.sha256)
            except (ProtocolError, NotFound) as e:
                self._refused.add(torrent.info_hash)
                self._means.ctx.log.info("torrent %s: %s", torrent.info_hash, e.message)
        return None

    async def _with(self, entry: Entry) -> None:
        """Let the torrent fetch the file, with help of the web."""
        if entry.held.is_paused or entry.problem:
            entry = await self._shelf.resume(entry)  # whoever asks again wants it to go on
        self.entry = entry
        if (urls := self.web.lasting) and not entry.held.is_whole:
            await self._means.store.change(entry.info_hash, web=urls)
        for who, spans in self._wants.items():
            await entry.want(who, spans)
        self._tell()
        async with beside(feed(self._means, entry, self.web), "seeding: web feed"):
            await entry.whole()

    # From the web alone

    async def _from_web(self) -> Entry | None:
        """The whole file from the web, verified, and its torrent; None if no address is left."""
        path = self._means.directory / self.file.sha256
        while self.web.is_usable:
            used: set[str] = set()
            try:
                resumed = await self._stream(path, used)
            except NotFound:
                return None
            async with self._means.hashing:
                hashes, stamp = await asyncio.to_thread(hash_file, path, stop=self._means.stop)
            if hashes.sha256 == self.file.sha256:
                make_read_only(path)
                return await add_whole(self._means, self._shelf, hashes, stamp, name=self.file.name)
            if not resumed:  # otherwise what was there before may be to blame
                hosts = ", ".join(sorted({self.web.ban(url) for url in used} - {""}))
                digest = self.file.sha256[:12]
                self._means.ctx.log.warning("%s sent another file than %s", hosts, digest)
            path.unlink(missing_ok=True)
            self.plain = 0
            self._refused.add("web")
        return None

    async def _stream(self, path: Path, used: set[str]) -> int:
        """Append to the file until it is whole, and add to `used` where its bytes came from.

        Returns the number of bytes that were there before.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self.plain = resumed = _end_of_content(fd)
            os.ftruncate(fd, resumed)
            if self.web.size and self.plain > self.web.size:
                os.ftruncate(fd, 0)
                self.plain = resumed = os.lseek(fd, 0, os.SEEK_SET)
            await self._means.room.check(Claim(path.parent, (path,), self.web.size))
            waiting = bytearray()
            async for chunk, url in self.web.stream(self.plain):
                used.add(url)
                waiting += chunk
                if len(waiting) >= _WRITE:
                    await self._append(fd, path, waiting)
            await self._append(fd, path, waiting)
        finally:
            os.close(fd)
        return resumed

    async def _append(self, fd: int, path: Path, waiting: bytearray) -> None:
        content = bytes(waiting)
        waiting.clear()
        try:
            await asyncio.to_thread(_write_all, fd, content)
        except OSError as e:
            full = e.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = "the disk is full; free some space there" if full else e.strerror
            raise Unavailable(
                f"cannot write {path}: {reason}, then ask for the file again"
            ) from None
        self.plain += len(content)
        self._tell()

    # For people

    def progress(self, who: object) -> FetchProgress:
        """How far it is for `who`."""
        from_web = self.web.received
        if (entry := self.entry) is None:
            return FetchProgress(self.plain, self.size, 0.0, 0, 0, from_web)
        spans = self._wants.get(who)
        counts = entry.torrent.counts
        done, total = entry.done, entry.meta.size
        if spans is not None:
            pieces = entry.meta.pieces_of(spans)
            total = len(pieces) * entry.meta.piece_length
            done = sum(entry.torrent.have[piece] for piece in pieces) * entry.meta.piece_length
        return FetchProgress(
            done, total, counts.download_bps, counts.peers, entry.from_peers, from_web
        )


def _end_of_content(fd: int) -> int:
    """The number of bytes before the first hole, which a torrent of the file may have left."""
    try:
        return os.lseek(fd, 0, os.SEEK_HOLE)
    except OSError:  # empty, or a file system that knows no holes
        return os.lseek(fd, 0, os.SEEK_END)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
