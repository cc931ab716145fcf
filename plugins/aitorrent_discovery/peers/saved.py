"""What outlives a restart: records heard, peers dialled, and the last sequence number.

The database is a copy of what is in memory, written as a whole each minute if that changed, and
within seconds after a new peer was dialled. A damaged file is set aside; one that is locked, or a
full disk, is tried again. Neither stops the node. Records of earlier runs are read like
a stranger's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiosqlite

from aitorrent_discovery.gossip.book import Heard
from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.peers.candidates import MAX_ANCHORS, Candidates
from aitorrent_discovery.records.codec import Refused, read_record
from aitorrent_discovery.records.places import MAX_PLACES
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    InvalidParams,
    PeerId,
    PluginContext,
    Unavailable,
    parse_peer_id,
    set_database_aside,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import Address, parse_address

SAVE_S: Final = 60.0
LOOK_S: Final = 5.0
"A peer that was dialled for the first time is saved this soon."
MAX_WAIT_S: Final = 300.0
MIGRATIONS: Final = {
    1: """
    CREATE TABLE heard (
        peer TEXT PRIMARY KEY, raw BLOB NOT NULL, hops INTEGER NOT NULL,
        places TEXT NOT NULL, teller TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE dialled (
        peer TEXT PRIMARY KEY, places TEXT NOT NULL,
        times INTEGER NOT NULL, last REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE own (only INTEGER PRIMARY KEY CHECK (only = 1), sequence INTEGER NOT NULL);
    """
}


class Saved:
    """The tables; `problem` says why they cannot be used now."""

    def __init__(self, ctx: PluginContext, gossip: Gossip, candidates: Candidates) -> None:
        self.problem = ""
        self.restored = asyncio.Event()
        "Set once the last run's data was read, or could not be."
        self._ctx = ctx
        self._gossip = gossip
        self._candidates = candidates
        self._done = False
        self._last: object = None

    async def keep(self) -> None:
        """Restore, then save every minute, until cancelled; saves once more then."""
        attempt = 0
        while True:
            try:
                async with self._ctx.db(MIGRATIONS) as db:
                    await self._use(db, self._attempt_over)
            except (Busy, Conflict, Unavailable, sqlite3.Error) as e:
                if self._set_aside(e):
                    continue
                self._tell(e)
            self.restored.set()
            await asyncio.sleep(
                equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=self._ctx.random.random())
            )
            attempt += 1

    def _attempt_over(self) -> None:
        if self.problem:
            self._ctx.log.info("heard and dialled peers are saved again")
            self.problem = ""

    def _set_aside(self, error: Exception) -> bool:
        """Whether the error was damage, and the file is out of the way."""
        if not isinstance(error, Unavailable) or not error.data.get("damaged"):
            return False
        try:
            where = set_database_aside(self._ctx.data_dir / f"{self._ctx.name}.sqlite")
        except OSError as e:
            error.message += f"; cannot move it aside: {e.strerror}"
            return False
        self._ctx.log.warning(
            "the database of heard peers was damaged; moved it to %s and created a new one", where
        )
        return True

    def _tell(self, error: Exception) -> None:
        text = error.message if isinstance(error, AitorrentError) else str(error)
        if not self.problem:
            self._ctx.log.warning("heard and dialled peers cannot be saved now: %s", text)
        self.problem = f"heard and dialled peers are not saved: {text}"

    async def _use(self, db: aiosqlite.Connection, opened: Callable[[], None]) -> None:
        if not self._done:
            await self._restore(db)
            self._done = True
        opened()
        self.restored.set()
        try:
            while True:
                await self._until_due()
                await self._save(db)
        finally:
            with suppress(sqlite3.Error):
                await self._save(db)

    async def _until_due(self) -> None:
        known = {peer for peer, _ in self._candidates.anchors}
        until = self._ctx.clock.monotonic() + SAVE_S
        while self._ctx.clock.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            if any(peer not in known for peer, _ in self._candidates.anchors):
                return

    async def _restore(self, db: aiosqlite.Connection) -> None:
        now = self._ctx.clock.time()
        for row in await db.execute_fetchall("SELECT sequence FROM own"):
            self._gossip.sequence = max(self._gossip.sequence, int(row[0]))
        query = f"SELECT peer, places, times, last FROM dialled ORDER BY last LIMIT {MAX_ANCHORS}"
        for peer, places, times, last in await db.execute_fetchall(query):
            if (known := _peer(peer)) is not None:
                standing = self._gossip.standings.of(known)
                standing.dialled = int(times)
                standing.dialled_at = float(last)
                self._candidates.dialled(known, _parsed(places, known))
        for raw, hops, places, teller in await db.execute_fetchall(
            "SELECT raw, hops, places, teller FROM heard LIMIT 1024"
        ):
            await asyncio.sleep(0)  # a signature takes a while to verify
            try:
                record = read_record(bytes(raw))
            except Refused:
                continue
            places_then = _parsed(places, record.peer)
            entry = Heard(record, max(1, min(3, int(hops))), places_then, PeerId(str(teller)))
            self._gossip.book.restore(entry, now)

    async def _save(self, db: aiosqlite.Connection) -> None:
        standings = self._gossip.standings
        heard = [
            (h.record.peer, h.record.raw, h.hops, _joined(h.places), h.teller)
            for h in self._gossip.book
        ]
        dialled = [
            (peer, _joined(places), standings.of(peer).dialled, standings.of(peer).dialled_at)
            for peer, places in self._candidates.anchors
        ]
        rows = (heard, dialled, self._gossip.sequence)
        if rows == self._last:
            return
        try:
            await db.execute("DELETE FROM heard")
            await db.executemany("INSERT INTO heard VALUES (?, ?, ?, ?, ?)", heard)
            await db.execute("DELETE FROM dialled")
            await db.executemany("INSERT INTO dialled VALUES (?, ?, ?, ?)", dialled)
            await db.execute("INSERT OR REPLACE INTO own VALUES (1, ?)", (self._gossip.sequence,))
            await db.commit()
            self._last = rows
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                await db.rollback()
            raise


def _joined(places: tuple[Address, ...]) -> str:
    return "\n".join(address.location for address in places)


def _parsed(text: object, peer: PeerId) -> tuple[Address, ...]:
    found = []
    for line in str(text).splitlines()[:MAX_PLACES]:
        with suppress(InvalidParams):
            found.append(parse_address(line).of(peer))
    return tuple(found)


def _peer(text: object) -> PeerId | None:
    try:
        return parse_peer_id(str(text))
    except ValueError:
        return None
