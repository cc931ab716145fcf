"""What outlives a restart: records heard, peers dialled, and the last sequence number.

Written each minute if it changed, and within seconds after a new peer was dialled. Records of
earlier runs are read like a stranger's.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import aiosqlite

from aitorrent_discovery.gossip.book import Heard
from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.peers.candidates import MAX_ANCHORS, Candidates
from aitorrent_discovery.records.codec import Refused, read_record
from aitorrent_discovery.records.places import MAX_PLACES
from aitorrentd.api import InvalidParams, PeerId, PluginContext, parse_peer_id
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.saved_tables import SavedTables

SAVE_S: Final = 60.0
LOOK_S: Final = 5.0
"A peer that was dialled for the first time is saved this soon."
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


class Saved(SavedTables):
    """Records heard, peers dialled, and the last sequence number."""

    def __init__(self, ctx: PluginContext, gossip: Gossip, candidates: Candidates) -> None:
        super().__init__(
            ctx,
            MIGRATIONS,
            what="heard and dialled peers",
            database="database of heard peers",
        )
        self._gossip = gossip
        self._candidates = candidates
        self._known: set[PeerId] = set()
        "Whose places were in the rows when those were last read."

    async def due(self) -> None:
        """Wait for a minute, or until a new peer was dialled."""
        until = self._ctx.clock.monotonic() + SAVE_S
        while self._ctx.clock.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            if any(peer not in self._known for peer, _ in self._candidates.anchors):
                return

    async def restore(self, db: aiosqlite.Connection) -> None:
        """Take up what was heard and dialled; records are verified again."""
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

    def rows(self) -> Any:
        """The rows of the tables, and the sequence number."""
        standings = self._gossip.standings
        self._known = {peer for peer, _ in self._candidates.anchors}
        heard = [
            (h.record.peer, h.record.raw, h.hops, _joined(h.places), h.teller)
            for h in self._gossip.book
        ]
        dialled = [
            (peer, _joined(places), standings.of(peer).dialled, standings.of(peer).dialled_at)
            for peer, places in self._candidates.anchors
        ]
        return heard, dialled, self._gossip.sequence

    async def write(self, db: aiosqlite.Connection, rows: Any) -> None:
        """Replace the tables."""
        heard, dialled, sequence = rows
        await db.execute("DELETE FROM heard")
        await db.executemany("INSERT INTO heard VALUES (?, ?, ?, ?, ?)", heard)
        await db.execute("DELETE FROM dialled")
        await db.executemany("INSERT INTO dialled VALUES (?, ?, ?, ?)", dialled)
        await db.execute("INSERT OR REPLACE INTO own VALUES (1, ?)", (sequence,))


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
