"""Tells who sent how much to whom, and who failed to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from aitorrent_seeding.crediting.accounts import Accounts
from aitorrent_seeding.crediting.claims import Claims
from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.session.engine import Engine
from aitorrent_seeding.session.links import Link
from aitorrent_seeding.session.torrent import Torrent
from aitorrentd.api import PeerId, PluginContext, TransferFailed, TransferSucceeded, Transport
from aitorrentd.api.tasks import Tasks

EVERY_S: Final = 1.0
RETRY_S: Final = (0.0, 3.0, 15.0, 60.0)
"Before a connection's node is looked for, and again, after it appeared."
_SEEDER_S: Final = 1.5
"Whoever fetches knows whom it asked, so a seeder looks for a node only if that does not."
_MOST_ASKED: Final = 64


class _Book:
    def __init__(self) -> None:
        self.accounts = Accounts()
        self.exchanged = (0, 0)
        self.known: set[PeerId] = set()
        "Nodes that were connected, or refused to be: who has left is not told to refuse, too."
        self.asking: asyncio.Task[None] | None = None


class Crediting:
    """Watches the connections of torrents; those without any cost nothing."""

    def __init__(
        self, ctx: PluginContext, engine: Engine, transport: Transport, claims: Claims, tasks: Tasks
    ) -> None:
        self._ctx = ctx
        self._engine = engine
        self._transport = transport
        self._claims = claims
        self._tasks = tasks
        self._books: dict[Entry, _Book] = {}
        self._look_now = asyncio.Event()

    async def links_of(self, entry: Entry) -> Sequence[Link]:
        """The connections of a torrent, those of the last moment included."""
        if entry.torrent.links.has_changed or not all(link.has_met for link in entry.torrent.links):
            await self._engine.count(entry.torrent)
        self._engine.met.add(entry.torrent)
        self._look_now.set()
        return list(entry.torrent.links)

    async def watch(self, entry_of: Callable[[Torrent], Entry | None]) -> None:
        """Count, find out whose connections they are, and tell, until cancelled.

        `entry_of` finds the entry of a torrent, once it has one.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._look_now.wait()
            self._look_now.clear()
            for torrent in list(self._engine.met):
                if (met := entry_of(torrent)) and met not in self._books:
                    self._books[met] = _Book()
                if met:
                    self._engine.met.discard(torrent)
            for entry in list(self._books):
                if entry in self._books and not entry.torrent.has_left:
                    await self._look(entry)
                if entry in self._books and entry.torrent.has_left:
                    self._tell(entry, is_over=True)
                    del self._books[entry]

    async def close(self) -> None:
        """Tell what is left."""
        for entry in list(self._books):
            if not entry.torrent.has_left:
                await self._engine.count(entry.torrent)
            self._tell(entry, is_over=True)
        self._books.clear()

    async def _look(self, entry: Entry) -> None:
        links, torrent = entry.torrent.links, entry.torrent
        book = self._books[entry]
        if links.has_changed or torrent.exchanged != book.exchanged:
            book.exchanged = torrent.exchanged
            await self._engine.count(torrent)
            if self._books.get(entry) is not book:
                return  # closed meanwhile
        now = asyncio.get_running_loop().time()
        unknown = self._due(entry, now)
        if unknown and (book.asking is None or book.asking.done()):
            for link in unknown:
                link.tries += 1
            asking = self._ask(entry, unknown)
            book.asking = self._tasks.spawn(asking, "seeding: whose connections these are")
        self._tell(entry, is_over=False)
        links.forget(now)
        if not book.accounts and not any(links):
            del self._books[entry]

    def _due(self, entry: Entry, now: float) -> list[Link]:
        """Connections with an unknown node that is to be looked for now."""
        patience_s = _SEEDER_S if entry.held.is_whole else 0.0
        return [
            link
            for link in entry.torrent.links
            if link.node is None
            and link.has_met
            and link.tries < len(RETRY_S)
            and now - link.since >= RETRY_S[link.tries] + patience_s
        ]

    async def _ask(self, entry: Entry, unknown: list[Link]) -> None:
        """Prove connections to the nodes that share the torrent, then to all."""
        sharers = set(entry.peers_of)
        connected = [view.id for view in self._transport.peers()[:_MOST_ASKED]]
        rounds = (
            [peer for peer in connected if peer in sharers],
            [peer for peer in connected if peer not in sharers],
        )
        for peers in rounds:
            left = [link for link in unknown if link.node is None]
            if left:
                asked = (self._claims.claim(peer, entry.info_hash, left) for peer in peers)
                await asyncio.gather(*asked)
        self._look_now.set()

    # Telling

    def _tell(self, entry: Entry, *, is_over: bool) -> None:
        book, links = self._books[entry], entry.torrent.links
        now = asyncio.get_running_loop().time()
        book.known.update(link.node for link in links if link.node is not None)
        for link in links:
            if link.ended_at is not None:
                self._judge(entry, book, link)
        for node in links.corrupt:
            book.accounts.bar(node)
        book.accounts.add(links, now)
        due = book.accounts.due(
            verified=entry.from_peers, is_whole=entry.held.is_whole, is_over=is_over, now=now
        )
        for credit in due:
            self._ctx.publish(
                TransferSucceeded(
                    credit.node,
                    entry.held.sha256,
                    credit.size_bytes,
                    credit.direction,
                    entry.info_hash,
                    round(credit.duration_s, 3),
                )
            )

    def _judge(self, entry: Entry, book: _Book, link: Link) -> None:
        """Tell of a connection that ended whether its node failed."""
        if not link.was_seen_ending:
            link.was_seen_ending = True
            if entry.held.is_whole:
                link.left = link.was_refused = False
        if link.was_judged or (link.node is None and not link.was_refused):
            return
        link.was_judged = True
        if link.was_refused:
            for node, places in entry.peers_of.items():
                if link.place in places and node not in book.known:
                    book.known.add(node)
                    self._fail(entry, node, 0, "refused")
        elif link.node is not None and link.node in entry.torrent.links.corrupt:
            pass  # it dials again, every few seconds
        elif link.node is not None and link.was_banned:
            entry.torrent.links.corrupt.add(link.node)
            self._fail(entry, link.node, link.failed, "corrupt pieces")
        elif link.node is not None and link.left and link.owed:
            is_back = any(
                other.node == link.node and other.ended_at is None for other in entry.torrent.links
            )
            if not is_back:
                self._fail(entry, link.node, link.owed, "left")

    def _fail(self, entry: Entry, node: PeerId, size_bytes: int, reason: str) -> None:
        self._ctx.publish(
            TransferFailed(node, entry.held.sha256, size_bytes, reason, entry.info_hash)
        )
