"""What relaying keeps across restarts: reservations given and held.

The tables are written as a whole, shortly after a change. A damaged file is set aside; one that is
locked, or a full disk, is tried again. Neither stops the node. What was saved is read like a
stranger's: only signatures count.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import aiosqlite

from aitorrent_nat.relay.grants import Grants
from aitorrent_nat.relay.held import MAX_PLACES
from aitorrent_nat.relay.reservation import check, read_reservation
from aitorrent_nat.relay.reserving import Reserver
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Conflict,
    InvalidParams,
    PeerId,
    PluginContext,
    ProtocolError,
    Unavailable,
    parse_peer_id,
    set_database_aside,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import Address, parse_address

SETTLE_S: Final = 0.2
"Changes within this time are written together."
MAX_WAIT_S: Final = 300.0
MIGRATIONS: Final = {
    1: """
    CREATE TABLE given (raw BLOB PRIMARY KEY, host TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE held (relay TEXT PRIMARY KEY, raw BLOB NOT NULL, places TEXT NOT NULL)
        WITHOUT ROWID;
    """
}


class Saved:
    """The tables; `problem` says why they cannot be used now."""

    def __init__(self, ctx: PluginContext, grants: Grants, reserver: Reserver) -> None:
        self.problem = ""
        self.restored = asyncio.Event()
        "Set once the last run's reservations were read, or could not be."
        self.changed = asyncio.Event()
        "Set when there is something to write."
        self._ctx = ctx
        self._grants = grants
        self._reserver = reserver
        self._done = False
        self._last: object = None

    async def keep(self) -> None:
        """Restore, then save after each change, until cancelled; saves once more then."""
        attempt = 0
        while True:
            try:
                async with self._ctx.db(MIGRATIONS) as db:
                    await self._use(db, self._usable)
            except (Busy, Conflict, Unavailable, sqlite3.Error) as e:
                if self._set_aside(e):
                    continue
                self._tell(e)
            self.restored.set()
            await asyncio.sleep(
                equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=self._ctx.random.random())
            )
            attempt += 1

    def _usable(self) -> None:
        if self.problem:
            self._ctx.log.info("reservations are saved again")
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
            "the database of reservations was damaged; moved it to %s and created a new one", where
        )
        return True

    def _tell(self, error: Exception) -> None:
        text = error.message if isinstance(error, AitorrentError) else str(error)
        if not self.problem:
            self._ctx.log.warning("reservations cannot be saved now: %s", text)
        self.problem = f"reservations are not saved: {text}"

    async def _use(self, db: aiosqlite.Connection, opened: Callable[[], None]) -> None:
        if not self._done:
            await self._restore(db)
            self._done = True
        opened()
        self.restored.set()
        try:
            while True:
                await self._save(db)
                await self.changed.wait()
                await asyncio.sleep(SETTLE_S)
                self.changed.clear()
        finally:
            with suppress(sqlite3.Error):
                await self._save(db)

    async def _restore(self, db: aiosqlite.Connection) -> None:
        now = self._ctx.clock.time()
        rows = await db.execute_fetchall("SELECT raw, host FROM given LIMIT 10000")
        self._grants.restore([(bytes(raw), str(host)) for raw, host in rows], now)
        me = self._ctx.identity.peer_id
        for relay, raw, places in await db.execute_fetchall(
            "SELECT relay, raw, places FROM held LIMIT 16"
        ):
            with suppress(ValueError, ProtocolError):
                known = parse_peer_id(str(relay))
                check(read_reservation(bytes(raw)), known, me, now)
                self._reserver.remembered[known] = bytes(raw), _parsed(places)

    async def _save(self, db: aiosqlite.Connection) -> None:
        given = [(grant.reservation.raw, grant.host) for grant in self._grants]
        held = [(relay, raw, _joined(places)) for relay, raw, places in self._to_hold()]
        rows = (given, held)
        if rows == self._last:
            return
        try:
            await db.execute("DELETE FROM given")
            await db.executemany("INSERT INTO given VALUES (?, ?)", given)
            await db.execute("DELETE FROM held")
            await db.executemany("INSERT INTO held VALUES (?, ?, ?)", held)
            await db.commit()
            self._last = rows
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                await db.rollback()
            raise

    def _to_hold(self) -> list[tuple[PeerId, bytes, tuple[Address, ...]]]:
        remembered = [(peer, *entry) for peer, entry in self._reserver.remembered.items()]
        held = [(h.relay, h.raw, h.places) for h in self._reserver.held if h.raw]
        return remembered + [each for each in held if each[0] not in self._reserver.remembered]


def _joined(places: tuple[Address, ...]) -> str:
    return "\n".join(address.location for address in places)


def _parsed(text: object) -> tuple[Address, ...]:
    found = []
    for line in str(text).splitlines()[:MAX_PLACES]:
        with suppress(InvalidParams):
            found.append(parse_address(line))
    return tuple(found)
