"""The catalogue in PostgreSQL, which several trackers share. Needs `aitorrentd[postgres]`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aitorrent_tracker.catalogue.sql.database import Row, Statements, Value
from aitorrent_tracker.catalogue.sql.schema import POSTGRES
from aitorrentd.api import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND_S: Final = 15.0
"For one statement, and for connecting."
_CONNECTIONS: Final = 4
_LOCK: Final = 0x6169746F7272656E
"Number of the advisory lock that writers hold: `aitorren` in ASCII."


class PostgresDatabase:
    """A pool of connections; one that broke is replaced."""

    is_shared = True
    has_words = False

    def __init__(self, pool: Any, name: str) -> None:
        self._pool = pool
        self.name = name

    async def rows(self, sql: str, *values: Value) -> Sequence[Row]:
        """See `Statements.rows`."""
        with _translated():
            async with self._pool.acquire(timeout=COMMAND_S) as connection:
                return await _Statements(connection).rows(sql, *values)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Statements]:
        """See `Database.writing`."""
        with _translated():
            async with self._pool.acquire(timeout=COMMAND_S) as one, one.transaction():
                await one.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
                yield _Statements(one)


class _Statements:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, sql: str, *values: Value) -> Sequence[Row]:
        found: Sequence[Mapping[str, Any]] = await self._connection.fetch(sql, *values)
        return found


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the driver and the server as those of this program; they never hold values."""
    import asyncpg

    try:
        yield
    except asyncpg.PostgresError as e:
        raise Unavailable(f"the catalogue's database failed: {_first_line(e)}") from None
    except (asyncpg.InterfaceError, OSError, TimeoutError) as e:
        reason = _first_line(e) or "no answer"
        raise Unavailable(f"the catalogue's database cannot be reached: {reason}") from None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


@asynccontextmanager
async def open_postgres(url: str) -> AsyncIterator[PostgresDatabase]:
    """The database at a `postgresql://` URL, with pending scripts applied.

    Raises:
        Unavailable: it cannot be reached, or the extra is not installed. Conflict: a newer program
        wrote it.
    """
    try:
        import asyncpg
    except ImportError:
        raise Unavailable(
            "PostgreSQL needs a driver: pip install 'aitorrentd[postgres]', or leave"
            " plugins.tracker.catalogue.database out for SQLite"
        ) from None
    with _translated():
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=_CONNECTIONS,
                timeout=COMMAND_S,
                command_timeout=COMMAND_S,
                # A pooler such as PgBouncer may give each transaction another connection.
                statement_cache_size=0,
            )
        except ValueError as e:
            raise Unavailable(f"plugins.tracker.catalogue.database: {_first_line(e)}") from None
    try:
        await _migrate(pool)
        yield PostgresDatabase(pool, _shown(url))
    finally:
        pool.terminate()


async def _migrate(pool: Any) -> None:
    with _translated():
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS catalogue_version (version BIGINT NOT NULL)"
            )
            version = await connection.fetchval("SELECT MAX(version) FROM catalogue_version") or 0
            if version > len(POSTGRES):
                raise Conflict(
                    f"a newer aitorrentd wrote the catalogue's database: its version is {version},"
                    f" and this program knows {len(POSTGRES)}; update aitorrentd"
                )
            for number in range(version + 1, len(POSTGRES) + 1):
                await connection.execute(POSTGRES[number])
                await connection.execute("INSERT INTO catalogue_version VALUES ($1)", number)


def _shown(url: str) -> str:
    parts = urlsplit(url)
    return f"PostgreSQL at {parts.hostname or 'a local socket'}"
