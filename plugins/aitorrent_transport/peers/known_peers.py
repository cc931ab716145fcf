"""Known peers in the plugin's database: only places that this node dialled successfully, plus the
port on which this node was reached, and bans.

Addresses that others claim are never stored, so nobody can poison what a node dials after a
restart.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiosqlite

from aitorrentd.api import PeerId

MAX_PEERS: Final = 1000
MAX_ADDRESSES: Final = 8
MAX_PAST_S: Final = 86_400.0
"How long an ended ban stays saved."

MIGRATIONS: Final = {
    1: """
    CREATE TABLE known (
        peer TEXT NOT NULL,
        address TEXT NOT NULL,
        last_seen REAL NOT NULL,
        fails INTEGER NOT NULL DEFAULT 0,
        wanted INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (peer, address)
    ) WITHOUT ROWID;
    """,
    # Formerly part of 1: older databases already have it.
    2: "CREATE INDEX IF NOT EXISTS known_last_seen ON known (last_seen);",
    3: "CREATE TABLE listened (only INTEGER PRIMARY KEY CHECK (only = 1), port INTEGER NOT NULL);",
    4: """
    CREATE TABLE bans (
        subject TEXT PRIMARY KEY,
        until REAL NOT NULL,
        seconds REAL NOT NULL,
        reason TEXT NOT NULL,
        times INTEGER NOT NULL,
        by_operator INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
    5: "CREATE INDEX bans_until ON bans (until);",
}


log = logging.getLogger("aitorrentd.transport")


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A place where a peer answered."""

    peer: PeerId
    address: str
    "A multiaddr without /p2p."
    last_seen: float
    "Seconds since the epoch."
    fails: int
    "Failed dials there since then."
    wanted: bool
    "Whether the node maintains a channel to this peer."


@dataclass(frozen=True, slots=True)
class SavedBan:
    """A ban that outlives the process."""

    subject: str
    "A peer id, an IP address or a network in CIDR notation."
    until: float
    "Seconds since the epoch."
    seconds: float
    "Its length when it was saved."
    reason: str
    times: int
    by_operator: bool


class PeerStore:
    """The tables; every change is on disk when its method returns.

    A change that the database rejects, for example for lack of space, is logged and skipped:
    channels must not depend on it.
    """

    def __init__(
        self, db: aiosqlite.Connection, *, problem: str = "", max_peers: int = MAX_PEERS
    ) -> None:
        self._max_peers = max_peers
        self.problem = problem
        "Why saving is currently impossible, or the empty string."
        self.on_moved: Callable[[], Awaitable[None]] | None = None
        "Called after `move_to`, when data from earlier runs is available."
        self._db = db
        self._is_temporary = bool(problem)

    async def move_to(self, db: aiosqlite.Connection) -> None:
        """Switch to another database and copy this one's rows into it."""
        known, port, bans = await self.all(), await self.last_port(), await self.bans()
        self._db, self.problem, self._is_temporary = db, "", False
        for each in known:
            await self.dialled(each.peer, each.address, wanted=each.wanted, now=each.last_seen)
        if port is not None:
            await self.listened(port)
        for ban in bans:
            await self.ban(ban)
        if self.on_moved is not None:
            await self.on_moved()

    async def _change(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        try:
            for sql, values in statements:
                await self._db.execute(sql, values)
            await self._db.commit()
        except sqlite3.Error as e:
            if not self.problem:
                log.warning("cannot save known peers: %s", e)
            self.problem = f"known peers cannot be saved: {e}"
            with suppress(sqlite3.Error):
                await self._db.rollback()
        else:
            if self.problem and not self._is_temporary:
                log.info("known peers are saved again")
                self.problem = ""

    async def dialled(self, peer: PeerId, address: str, *, wanted: bool, now: float) -> None:
        """Record a successful dial; `wanted` stays set if it was set before."""
        await self._change(
            (
                "INSERT INTO known (peer, address, last_seen, wanted) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET last_seen = excluded.last_seen, fails = 0,"
                " wanted = max(wanted, excluded.wanted)",
                (peer, address, now, wanted),
            ),
            (
                "DELETE FROM known WHERE peer = ? AND address NOT IN"
                " (SELECT address FROM known WHERE peer = ? ORDER BY last_seen DESC LIMIT ?)",
                (peer, peer, MAX_ADDRESSES),
            ),
            (
                "DELETE FROM known WHERE last_seen < (SELECT last_seen FROM known"
                " ORDER BY last_seen DESC LIMIT 1 OFFSET ?)",
                (self._max_peers - 1,),
            ),
        )

    async def seen(self, peer: PeerId, now: float) -> None:
        """Record that a channel to a known peer was up until `now`."""
        await self._change(("UPDATE known SET last_seen = ? WHERE peer = ?", (now, peer)))

    async def failed(self, peer: PeerId, address: str) -> None:
        """Record a failed dial to a known place."""
        sql = "UPDATE known SET fails = fails + 1 WHERE peer = ? AND address = ?"
        await self._change((sql, (peer, address)))

    async def unwant(self, peer: PeerId) -> None:
        """Record that no channel to `peer` is to be maintained."""
        await self._change(("UPDATE known SET wanted = 0 WHERE peer = ?", (peer,)))

    async def last_port(self) -> int | None:
        """The port that `port: 0` got in the last run, or None before the first."""
        rows = list(await self._db.execute_fetchall("SELECT port FROM listened"))
        return int(rows[0][0]) if rows else None

    async def listened(self, port: int) -> None:
        """Record `port`, under which peers now know this node."""
        await self._change(("INSERT OR REPLACE INTO listened VALUES (1, ?)", (port,)))

    async def bans(self) -> list[SavedBan]:
        """Every saved ban, expired ones included."""
        rows = await self._db.execute_fetchall(
            "SELECT subject, until, seconds, reason, times, by_operator FROM bans"
        )
        return [
            SavedBan(str(who), float(until), float(s), str(why), int(times), bool(own))
            for who, until, s, why, times, own in rows
        ]

    async def ban(self, ban: SavedBan) -> None:
        """Save a ban in place of the subject's earlier one; drops those that ended long ago."""
        values = (ban.subject, ban.until, ban.seconds, ban.reason, ban.times, ban.by_operator)
        await self._change(
            ("INSERT OR REPLACE INTO bans VALUES (?, ?, ?, ?, ?, ?)", values),
            ("DELETE FROM bans WHERE until < ?", (ban.until - ban.seconds - MAX_PAST_S,)),
        )

    async def unban(self, subject: str) -> None:
        """Remove a saved ban."""
        await self._change(("DELETE FROM bans WHERE subject = ?", (subject,)))

    async def addresses(self, peer: PeerId) -> list[str]:
        """Where `peer` answered, best first."""
        rows = await self._db.execute_fetchall(
            "SELECT address FROM known WHERE peer = ? ORDER BY fails, last_seen DESC", (peer,)
        )
        return [str(row[0]) for row in rows]

    async def all(self) -> list[KnownPeer]:
        """Every known place, most recently seen first."""
        rows = await self._db.execute_fetchall(
            "SELECT peer, address, last_seen, fails, wanted FROM known ORDER BY last_seen DESC"
        )
        return [
            KnownPeer(PeerId(peer), str(address), float(seen), int(fails), bool(wanted))
            for peer, address, seen, fails, wanted in rows
        ]
