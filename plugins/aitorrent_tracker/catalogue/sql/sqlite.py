"""The catalogue in a SQLite file of its own: the default."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiosqlite

from aitorrent_tracker.catalogue.sql.database import Row, Statements, Value, for_sqlite
from aitorrent_tracker.catalogue.sql.schema import SQLITE
from aitorrentd.api import PluginContext, Unavailable


class SqliteDatabase:
    """One connection; statements run one after the other."""

    name = "SQLite"
    is_shared = False
    has_words = True

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._statements = _Statements(connection)
        self._connection = connection
        self._lock = asyncio.Lock()

    async def rows(self, sql: str, *values: Value) -> Sequence[Row]:
        """See `Statements.rows`."""
        async with self._lock:
            return await self._statements.rows(sql, *values)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Statements]:
        """See `Database.writing`."""
        async with self._lock:
            await self._statements.rows("BEGIN IMMEDIATE")
            try:
                yield self._statements
                await self._statements.rows("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    await self._connection.rollback()
                raise


class _Statements:
    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, *values: Value) -> Sequence[Row]:
        try:
            async with self._connection.execute(for_sqlite(sql), values) as cursor:
                return [dict(row) for row in await cursor.fetchall()]
        except (sqlite3.Error, OverflowError) as e:
            raise Unavailable(f"the catalogue's database failed: {e}") from None


@asynccontextmanager
async def open_sqlite(ctx: PluginContext) -> AsyncIterator[SqliteDatabase]:
    """The database in the plugin's directory.

    Raises:
        Busy, Conflict, Unavailable: it cannot be used; see `PluginContext.db`.
    """
    async with ctx.db(SQLITE, name="catalogue") as connection:
        connection.row_factory = aiosqlite.Row
        await connection.commit()
        yield SqliteDatabase(connection)
