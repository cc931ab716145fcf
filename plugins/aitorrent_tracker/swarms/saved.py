"""How many downloads were completed, kept across restarts.

Peers are not saved: they announce themselves again within an interval. SIGKILL loses what was
counted in the last seconds.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import aiosqlite

from aitorrent_tracker.swarms.memory import MemoryStorage
from aitorrent_tracker.swarms.storage import HASH_BYTES
from aitorrentd.api import PluginContext
from aitorrentd.api.saved_tables import SavedTables

SAVE_S: Final = 2.0
MAX_COUNT: Final = 2**32 - 1
MIGRATIONS: Final = {
    1: """
    CREATE TABLE completed (info_hash BLOB PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
    """
}


class SavedCounters(SavedTables):
    """The counters of a storage; only those that changed are written."""

    def __init__(self, ctx: PluginContext, memory: MemoryStorage) -> None:
        super().__init__(
            ctx, MIGRATIONS, what="counters of downloads", database="database of the tracker"
        )
        self._memory = memory
        self._restored: dict[bytes, int] = {}

    async def due(self) -> None:
        """Wait a few seconds."""
        await asyncio.sleep(SAVE_S)

    async def restore(self, db: aiosqlite.Connection) -> None:
        """Add what was counted before to what was counted since the start."""
        for info_hash, count in await db.execute_fetchall("SELECT info_hash, count FROM completed"):
            if isinstance(info_hash, bytes) and len(info_hash) == HASH_BYTES:
                self._restored[info_hash] = before = min(int(count), MAX_COUNT)
                since = self._memory.counts(info_hash).completed
                self._memory.set_completed(info_hash, before + since)

    def rows(self) -> Any:
        """Info-hashes and counts."""
        return self._memory.completed()

    async def write(self, db: aiosqlite.Connection, rows: Any) -> None:
        """Write the rows that changed."""
        before = self._restored if self._last is None else self._last
        changed = [row for row in rows.items() if before.get(row[0]) != row[1]]
        await db.executemany("INSERT OR REPLACE INTO completed VALUES (?, ?)", changed)
        gone = [(info_hash,) for info_hash in before.keys() - rows.keys()]
        await db.executemany("DELETE FROM completed WHERE info_hash = ?", gone)
