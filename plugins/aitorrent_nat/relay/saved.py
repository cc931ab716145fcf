"""What relaying keeps across restarts: reservations given and held, and what pairs have sent.

The tables are written shortly after a change. What was saved is read like a stranger's: only
signatures count.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import aiosqlite

from aitorrent_nat.relay.budgets import MAX_PAIRS, SLOTS, Budgets
from aitorrent_nat.relay.grants import Grants
from aitorrent_nat.relay.held import MAX_PLACES
from aitorrent_nat.relay.reservation import check, read_reservation
from aitorrent_nat.relay.reserving import Reserver
from aitorrentd.api import InvalidParams, PeerId, PluginContext, ProtocolError, parse_peer_id
from aitorrentd.api.network.addresses import Address, parse_address
from aitorrentd.api.saved_tables import SavedTables

SETTLE_S: Final = 0.2
"Changes within this time are written together."
EVERY_S: Final = 60.0
"Bytes that pass are no change; what a relay passed in its last minute is lost when it is killed."
_ROUND_S: Final = 10
"Two clocks are compared, which drift: times are saved less exactly."
_MAX_ROWS: Final = SLOTS * MAX_PAIRS
MIGRATIONS: Final = {
    1: """
    CREATE TABLE given (raw BLOB PRIMARY KEY, host TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE held (relay TEXT PRIMARY KEY, raw BLOB NOT NULL, places TEXT NOT NULL)
        WITHOUT ROWID;
    """,
    2: """
    CREATE TABLE passed (one TEXT NOT NULL, other TEXT NOT NULL, at INTEGER NOT NULL,
        bytes INTEGER NOT NULL, PRIMARY KEY (one, other, at)) WITHOUT ROWID;
    """,
}


class Saved(SavedTables):
    """Reservations that were given, and those that are held."""

    def __init__(
        self, ctx: PluginContext, grants: Grants, reserver: Reserver, budgets: Budgets
    ) -> None:
        super().__init__(ctx, MIGRATIONS, what="reservations", database="database of reservations")
        self.changed = asyncio.Event()
        "Set when there is something to write."
        self._grants = grants
        self._reserver = reserver
        self._budgets = budgets

    async def due(self) -> None:
        """Wait for a change, and a moment for others."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
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

        await self._restore_budgets(db, now)

    async def _restore_budgets(self, db: aiosqlite.Connection, now: float) -> None:
        """Take up the hour of each pair; what is from the future is as if it was sent now."""
        offset_s = now - self._ctx.clock.monotonic()
        slots: dict[tuple[PeerId, PeerId], list[tuple[float, int]]] = {}
        for one, other, at, count in await db.execute_fetchall(
            f"SELECT one, other, at, bytes FROM passed ORDER BY at LIMIT {_MAX_ROWS}"
        ):
            if type(at) is int and type(count) is int and count > 0:
                with suppress(ValueError):
                    pair = parse_peer_id(str(one)), parse_peer_id(str(other))
                    slots.setdefault(pair, []).append((min(at, now) - offset_s, count))
        for (one, other), each in slots.items():
            self._budgets.restore(one, other, each)

    def rows(self) -> Any:
        """The rows of all tables."""
        given = [(grant.reservation.raw, grant.host) for grant in self._grants]
        held = [(relay, raw, _joined(places)) for relay, raw, places in self._to_hold()]
        now = self._ctx.clock.monotonic()
        offset_s = self._ctx.clock.time() - now
        passed = [
            (*pair, round((at + offset_s) / _ROUND_S) * _ROUND_S, count)
            for pair, at, count in self._budgets.hours(now)
        ]
        return given, held, passed

    async def write(self, db: aiosqlite.Connection, rows: Any) -> None:
        """Replace all tables."""
        given, held, passed = rows
        await db.execute("DELETE FROM given")
        await db.executemany("INSERT INTO given VALUES (?, ?)", given)
        await db.execute("DELETE FROM held")
        await db.executemany("INSERT INTO held VALUES (?, ?, ?)", held)
        await db.execute("DELETE FROM passed")
        await db.executemany("INSERT INTO passed VALUES (?, ?, ?, ?)", passed)

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
