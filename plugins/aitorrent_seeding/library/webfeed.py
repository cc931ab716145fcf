"""Pieces from the web, beside those from peers: whoever is faster sends more of them. While peers
alone are as fast as both, the web is not asked.

A piece that is fetched here gets the lowest priority in the swarm, so peers send others first, and
send this one too if the web is slow and nothing else is left. libtorrent checks each piece against
its hash; an address whose piece is wrong is never asked again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.pace import Pace
from aitorrent_seeding.sources.web import WebFile
from aitorrentd.api import NotFound
from aitorrentd.api.tasks import beside

_LOOK_S: Final = 0.5
"How long what peers are sending is remembered."
_STALLED_S: Final = 0.5
"Without a piece for so long, the pace is looked at nevertheless."


class WebFeed:
    """Feeds one torrent from the web while `run` runs."""

    def __init__(self, means: Means, entry: Entry, web: WebFile) -> None:
        self._means = means
        self._entry = entry
        self._web = web
        self._claimed: set[int] = set()
        self._came_from: dict[int, str] = {}
        self._sent_by_peers: set[int] = set()
        self._looked_at = -_LOOK_S
        self._pace = Pace()

    async def run(self) -> None:
        """Fetch pieces until none is missing, or no address is left."""
        torrent = self._entry.torrent
        torrent.on_bad_piece = self._bad_piece
        torrent.is_fed = True
        try:
            await torrent.until(lambda: torrent.is_checked)
            async with (
                beside(self._keep_pace(), "seeding: pace of the web"),
                asyncio.TaskGroup() as group,
            ):
                for _ in range(self._means.config.web_connections):
                    group.create_task(self._fetch(), name="seeding: web")
        finally:
            torrent.on_bad_piece = lambda piece: None
            torrent.is_fed = False
            for piece in self._claimed:
                torrent.rank(piece, is_last=False)

    async def _keep_pace(self) -> None:
        """Leave the web out while peers alone are as fast."""
        torrent = self._entry.torrent
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STALLED_S):
                    await torrent.changed()
            now = self._means.ctx.clock.monotonic()
            if self._pace.look(now, held=torrent.held, from_peers=torrent.arrived):
                torrent.is_fed = self._pace.uses_web
                torrent.pulse()

    async def _fetch(self) -> None:
        torrent = self._entry.torrent
        while not torrent.is_whole and not torrent.has_left:
            piece = await self._next()
            if piece is None:
                await torrent.changed()
                continue
            self._claimed.add(piece)
            torrent.rank(piece, is_last=True)
            try:
                start = piece * self._entry.meta.piece_length
                stop = min(start + self._entry.meta.piece_length, self._entry.meta.size)
                content, url = await self._web.range(start, stop)
            except NotFound as e:
                self._means.ctx.log.info("no more bytes from the web: %s", e.message)
                return
            finally:
                self._claimed.discard(piece)
            if not torrent.has_left and not torrent.have[piece]:
                self._came_from[piece] = url
                torrent.give(piece, content)
                await self._settled(piece)

    async def _settled(self, piece: int) -> None:
        """Wait until libtorrent checked a piece."""
        torrent = self._entry.torrent
        while not torrent.have[piece] and piece in self._came_from and not torrent.has_left:
            if torrent.problem:
                return
            await torrent.changed()
        self._came_from.pop(piece, None)

    async def _next(self) -> int | None:
        """A piece that is wanted, and that nobody sends yet."""
        is_stopped = self._entry.held.is_paused or self._entry.torrent.problem
        if is_stopped or not self._pace.uses_web:
            return None
        now = self._means.ctx.clock.monotonic()
        if now - self._looked_at > _LOOK_S:
            self._looked_at = now
            self._sent_by_peers = await self._means.engine.partial(self._entry.torrent)
        missing = [p for p in self._entry.order() if p not in self._claimed]
        free = (p for p in missing if p not in self._sent_by_peers and p not in self._came_from)
        if (piece := next(free, None)) is not None:
            return piece
        return next((p for p in missing if p not in self._came_from), None)

    def _bad_piece(self, piece: int) -> None:
        """A piece failed its hash: if it came from the web, its address is banned."""
        if url := self._came_from.pop(piece, ""):
            host = self._web.ban(url, by=self._entry.info_hash)
            self._entry.dispute()
            self._means.ctx.log.warning(
                "%s sent wrong bytes for %s; not asked again", host, self._entry.held.sha256[:12]
            )
        self._entry.torrent.pulse()


async def feed(means: Means, entry: Entry, web: WebFile) -> None:
    """Feed `entry` whenever there is an address to ask, until it is whole."""
    while not entry.held.is_whole and not entry.torrent.has_left:
        if web.is_usable:
            await WebFeed(means, entry, web).run()
        await entry.torrent.changed()
