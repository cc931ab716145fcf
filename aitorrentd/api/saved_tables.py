"""State in memory that a plugin's database keeps across restarts.

The tables are a copy, written as a whole. A damaged file is set aside; one that is locked, or a
full disk, is tried again. Neither stops the plugin.
"""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import aiosqlite

from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.context import PluginContext
from aitorrentd.errors import AitorrentError, Busy, Conflict, Unavailable
from aitorrentd.system.files import set_database_aside

MAX_WAIT_S: Final = 300.0
"Between two attempts to use a database that cannot be used."


class SavedTables(ABC):
    """A plugin's tables; `problem` says why they cannot be used now, and is empty if they can.

    A subclass says what is saved and when; run `keep` as a task, and wait for `restored` before the
    state is used.
    """

    def __init__(
        self, ctx: PluginContext, migrations: Mapping[int, str], *, what: str, database: str
    ) -> None:
        """`what` is saved, in the plural: `reservations`; `database` names it for people."""
        self.problem = ""
        self.restored = asyncio.Event()
        "Set once the state of the last run was read, or could not be."
        self._ctx = ctx
        self._migrations = migrations
        self._what = what
        self._database = database
        self._done = False
        self._last: Any = None

    @abstractmethod
    async def restore(self, db: aiosqlite.Connection) -> None:
        """Read the state of the last run: untrusted, as everything on disk."""

    @abstractmethod
    async def due(self) -> None:
        """Wait until the state is to be saved again."""

    @abstractmethod
    def rows(self) -> Any:
        """What is to be saved; nothing is written while it equals what was saved last."""

    @abstractmethod
    async def write(self, db: aiosqlite.Connection, rows: Any) -> None:
        """Replace the tables; the caller commits."""

    async def keep(self) -> None:
        """Restore, then save whenever it is due, until cancelled; saves once more then."""
        attempt = 0
        while True:
            try:
                async with self._ctx.db(self._migrations) as db:
                    await self._use(db)
            except (Busy, Conflict, Unavailable, sqlite3.Error) as e:
                if self._set_aside(e):
                    continue
                self._tell(e)
            self.restored.set()
            await asyncio.sleep(
                equal_jitter_s(attempt, cap_s=MAX_WAIT_S, draw=self._ctx.random.random())
            )
            attempt += 1

    async def _use(self, db: aiosqlite.Connection) -> None:
        if not self._done:
            await self.restore(db)
            self._done = True
        if self.problem:
            self._ctx.log.info("%s are saved again", self._what)
            self.problem = ""
        self.restored.set()
        try:
            while True:
                await self._save(db)
                await self.due()
        finally:
            with suppress(sqlite3.Error):
                await self._save(db)

    async def _save(self, db: aiosqlite.Connection) -> None:
        rows = self.rows()
        if rows == self._last:
            return
        try:
            await self.write(db, rows)
            await db.commit()
            self._last = rows
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                await db.rollback()
            raise

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
            "the %s was damaged; moved it to %s and created a new one", self._database, where
        )
        return True

    def _tell(self, error: Exception) -> None:
        text = error.message if isinstance(error, AitorrentError) else str(error)
        if not self.problem:
            self._ctx.log.warning("%s cannot be saved now: %s", self._what, text)
        self.problem = f"{self._what} are not saved: {text}"
