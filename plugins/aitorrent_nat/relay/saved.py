"""What relaying keeps across restarts: reservations given and held.

The tables are written shortly after a change. What was saved is read like a stranger's: only
signatures count.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import aiosqlite

from aitorrent_nat.relay.grants import Grants
from aitorrent_nat.relay.held import MAX_PLACES
from aitorrent_nat.relay.reservation import check, read_reservation
from aitorrent_nat.relay.reserving import Reserver
from aitorrentd.api import InvalidParams, PeerId, PluginContext, ProtocolError, parse_peer_id
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.saved_tables import SavedTables

SETTLE_S: Final = 0.2
"Changes within this time are written together."
MIGRATIONS: Final = {
    1: """
    CREATE TABLE given (raw BLOB PRIMARY KEY, host TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE held (relay TEXT PRIMARY KEY, raw BLOB NOT NULL, places TEXT NOT NULL)
        WITHOUT ROWID;
    """
}


class Saved(SavedTables):
    """Reservations that were given, and those that are held."""

    def __init__(self, ctx: PluginContext, grants: Grants, reserver: Reserver) -> None:
        super().__init__(ctx, MIGRATIONS, what="reservations", database="database of reservations")
        self.changed = asyncio.Event()
        "Set when there is something to write."
        self._grants = grants
        self._reserver = reserver

    async def due(self) -> None:
        """Wait for a change, and a moment for others."""
        await self.changed.wait()
        await asyncio.sleep(SETTLE_S)
        self.changed.clear()

    async def restore(self, db: aiosqlite.Connection) -> None:
        """Take up what was given and held; only signatures count."""
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

    def rows(self) -> Any:
        """The rows of both tables."""
        given = [(grant.reservation.raw, grant.host) for grant in self._grants]
        held = [(relay, raw, _joined(places)) for relay, raw, places in self._to_hold()]
        return given, held

    async def write(self, db: aiosqlite.Connection, rows: Any) -> None:
        """Replace both tables."""
        given, held = rows
        await db.execute("DELETE FROM given")
        await db.executemany("INSERT INTO given VALUES (?, ?)", given)
        await db.execute("DELETE FROM held")
        await db.executemany("INSERT INTO held VALUES (?, ?, ?)", held)

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
