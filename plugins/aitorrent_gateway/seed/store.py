"""Users, sessions and their turns, in SQLite. Each caller sees only its own.

The database is open only while it is read or written. Nothing grows without end: beyond the
limits, what was unused for the longest time is forgotten.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import aiosqlite

from aitorrentd.api import Conflict, NotFound, PluginContext

MAX_USERS: Final = 1000
"Of one caller."
MAX_SESSIONS: Final = 2000
"Of one caller."
MAX_TURNS: Final = 200
"Of one session; the latest are kept."
MAX_TEXT_BYTES: Final = 64 * 2**20
"Of all turns and scenarios of one caller."
MIGRATIONS: Final = {
    1: "CREATE TABLE users (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL,"
    " used REAL NOT NULL, UNIQUE (owner, name));"
    " CREATE TABLE sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, owner TEXT NOT NULL,"
    " user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE, scenario TEXT,"
    " used REAL NOT NULL);"
    " CREATE INDEX sessions_owner ON sessions (owner, used);"
    " CREATE INDEX sessions_user ON sessions (user_id);"
    " CREATE TABLE turns (id INTEGER PRIMARY KEY, session_id INTEGER NOT NULL"
    " REFERENCES sessions (id) ON DELETE CASCADE, sender TEXT NOT NULL, text TEXT NOT NULL);"
    " CREATE INDEX turns_session ON turns (session_id);"
}
_BYTES: Final = (
    "SELECT COALESCE(SUM(LENGTH(CAST(t.text AS BLOB))), 0) FROM turns t"
    " JOIN sessions s ON s.id = t.session_id WHERE s.owner = ?"
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a user."""

    ident: int
    user_id: int
    scenario: str | None


class GameStore:
    """The users and sessions of all callers."""

    def __init__(self, ctx: PluginContext) -> None:
        self._ctx = ctx

    def _db(self) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        return self._ctx.db(MIGRATIONS, name="games")

    async def add_user(self, owner: str, name: str) -> int:
        """A new user's id.

        Raises:
            Conflict: the caller has one of that name.
        """
        async with self._db() as db:
            await db.execute("PRAGMA foreign_keys = ON")
            found = await _one(db, "SELECT id FROM users WHERE owner = ? AND name = ?", owner, name)
            if found is not None:
                raise Conflict(f"there is a user {name[:64]!r} already, with the id {found}")
            cursor = await db.execute(
                "INSERT INTO users (owner, name, used) VALUES (?, ?, ?)", (owner, name, self._now())
            )
            await db.execute(
                "DELETE FROM users WHERE id IN (SELECT id FROM users WHERE owner = ?"
                " ORDER BY used DESC, id DESC LIMIT -1 OFFSET ?)",
                (owner, MAX_USERS),
            )
            await db.commit()
            return cursor.lastrowid or 0

    async def add_session(self, owner: str, user_id: int, scenario: str | None) -> int:
        """A new session's id.

        Raises:
            NotFound: the caller has no such user.
        """
        async with self._db() as db:
            await db.execute("PRAGMA foreign_keys = ON")
            now = self._now()
            cursor = await db.execute(
                "UPDATE users SET used = ? WHERE id = ? AND owner = ?", (now, user_id, owner)
            )
            if not cursor.rowcount:
                raise NotFound("User not found")
            cursor = await db.execute(
                "INSERT INTO sessions (owner, user_id, scenario, used) VALUES (?, ?, ?, ?)",
                (owner, user_id, scenario, now),
            )
            await db.execute(
                "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE owner = ?"
                " ORDER BY used DESC, id DESC LIMIT -1 OFFSET ?)",
                (owner, MAX_SESSIONS),
            )
            await db.commit()
            return cursor.lastrowid or 0

    async def session(self, owner: str, ident: int) -> Session:
        """A session.

        Raises:
            NotFound: the caller has no such session.
        """
        async with (
            self._db() as db,
            db.execute(
                "SELECT id, user_id, scenario FROM sessions WHERE id = ? AND owner = ?",
                (ident, owner),
            ) as rows,
        ):
            row = await rows.fetchone()
        if row is None:
            raise NotFound("Session not found")
        return Session(*row)

    async def turns(self, session: Session) -> list[tuple[str, str]]:
        """(sender, text) of a session's turns, the oldest first."""
        async with (
            self._db() as db,
            db.execute(
                "SELECT sender, text FROM turns WHERE session_id = ? ORDER BY id", (session.ident,)
            ) as rows,
        ):
            return [(row[0], row[1]) async for row in rows]

    async def add_turns(self, owner: str, session: Session, *turns: tuple[str, str]) -> None:
        """Add (sender, text) to a session, all or none. If it was forgotten meanwhile, nothing
        happens."""
        async with self._db() as db:
            await db.execute("PRAGMA foreign_keys = ON")
            cursor = await db.execute(
                "UPDATE sessions SET used = ? WHERE id = ? AND owner = ?",
                (self._now(), session.ident, owner),
            )
            if not cursor.rowcount:
                return
            await db.execute(
                "UPDATE users SET used = ? WHERE id = ?", (self._now(), session.user_id)
            )
            await db.executemany(
                "INSERT INTO turns (session_id, sender, text) VALUES (?, ?, ?)",
                [(session.ident, sender, text) for sender, text in turns],
            )
            await db.execute(
                "DELETE FROM turns WHERE session_id = ? AND id NOT IN (SELECT id FROM turns"
                " WHERE session_id = ? ORDER BY id DESC LIMIT ?)",
                (session.ident, session.ident, MAX_TURNS),
            )
            await self._shrink(db, owner, session)
            await db.commit()

    async def _shrink(self, db: aiosqlite.Connection, owner: str, kept: Session) -> None:
        """Forget whole sessions until the caller's texts fit, but not the one in use."""
        while (await _one(db, _BYTES, owner) or 0) > MAX_TEXT_BYTES:
            cursor = await db.execute(
                "DELETE FROM sessions WHERE id = (SELECT id FROM sessions"
                " WHERE owner = ? AND id <> ? ORDER BY used, id LIMIT 1)",
                (owner, kept.ident),
            )
            if not cursor.rowcount:
                return

    def _now(self) -> float:
        return self._ctx.clock.time()


async def _one(db: aiosqlite.Connection, query: str, *values: object) -> int | None:
    async with db.execute(query, values) as rows:
        row = await rows.fetchone()
    return None if row is None else int(row[0])
