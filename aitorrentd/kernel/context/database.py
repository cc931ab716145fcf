"""A plugin's SQLite database: opened safely, migrated, never overwritten.

Every connection uses WAL, foreign keys and full synchronisation, so that commits survive a SIGKILL
or a power cut. `PRAGMA user_version` is the number of the last applied script; a script and its
number are committed together.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite

from aitorrentd.errors import AitorrentError, Busy, Conflict, InvalidParams, Unavailable

BUSY_S: Final = 5.0
"How long a connection waits for another one's write lock."
_SHARED_MEMORY_BYTES: Final = 32 * 1024
"Files that WAL mode needs beside the database even to open it (sqlite.org/walformat.html)."
_REFUSED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_FAILING: Final = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL)
CHECKED_BYTES: Final = 64 * 1024 * 1024
"Files up to this size are checked in full on opening; checking larger ones would delay the start."


def statements(script: str) -> Iterator[str]:
    """The SQL statements of `script`, one by one; semicolons in strings and triggers do not split.

    Raises:
        InvalidParams: the script ends in the middle of a statement.
    """
    pending = ""
    for piece in script.split(";"):
        pending += piece
        if sqlite3.complete_statement(pending + ";"):
            if _has_code(pending):
                yield pending.strip() + ";"
            pending = ""
        else:
            pending += ";"
    rest = pending.removesuffix(";")
    if _has_code(rest):
        raise InvalidParams(f"migration ends in the middle of a statement: {rest.strip()[-60:]!r}")


def _has_code(sql: str) -> bool:
    return any(line.partition("--")[0].strip() for line in sql.splitlines())


def _latest(migrations: Mapping[int, str]) -> int:
    if sorted(migrations) != list(range(1, len(migrations) + 1)):
        raise InvalidParams(
            f"migrations must be numbered 1, 2, 3 …; these are {sorted(migrations)}"
        )
    return len(migrations)


@asynccontextmanager
async def open_database(
    path: Path, migrations: Mapping[int, str], *, busy_s: float = BUSY_S
) -> AsyncIterator[aiosqlite.Connection]:
    """A connection to the database at `path`, created 0600 on first use.

    It waits `busy_s` for the lock of another process.

    `migrations` maps 1, 2, 3 … to SQL scripts. Pending ones are applied, each in its own
    transaction, so that a crash leaves a complete version behind. Uncommitted changes are rolled
    back when the block ends.

    Raises:
        Conflict: a newer program wrote the database. Busy: another process holds its lock.
        Unavailable: it is damaged (then `data["damaged"]` is true), cannot be opened or written, or
        the disk is full or failing. InvalidParams: a script is wrong; the database stays as it was
        before that script.
    """
    latest = _latest(migrations)
    try:
        size_bytes = _touch(path)
    except OSError as e:
        raise Unavailable(f"cannot open the database {path}: {e.strerror}") from None
    async with aiosqlite.connect(path, timeout=busy_s) as db:
        try:
            check = size_bytes <= CHECKED_BYTES
            await _prepare(db, path, latest, check=check, busy_s=busy_s)
            for number in range(1, latest + 1):
                await _apply(db, path, number, migrations[number], busy_s)
        except sqlite3.DatabaseError as e:
            raise _unusable(path, e, busy_s) from None
        yield db


def _touch(path: Path) -> int:
    """Create the file if missing, readable by its owner alone; returns its size in bytes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for an error of our own (sqlite.org/rescode.html)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _is_full(path: Path, error: sqlite3.Error) -> bool:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return True
    # SQLite reports a different error when there is no room for its shared memory, or no inode.
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    has_no_inode = room.f_files > 0 and room.f_favail == 0
    return has_no_inode or room.f_bavail * room.f_frsize < _SHARED_MEMORY_BYTES


def _unusable(path: Path, error: sqlite3.Error, busy_s: float) -> AitorrentError:
    if _is_busy(error):
        return Busy(
            f"the database {path} has been locked by another process for more than {busy_s:g} s"
        )
    if _is_full(path, error):
        return Unavailable(f"the disk is full: cannot write the database {path}; free some space")
    text = " ".join(str(error).split())
    code = _code(error)
    if code in _REFUSED:
        return Unavailable(f"cannot use the database {path} ({text}): {_refused(path)}")
    if code in _FAILING:
        remedy = "check the disk (dmesg) and the memory, or set node.state_dir to a local disk"
        return Unavailable(f"cannot use the database {path} ({text}); {remedy}")
    return Unavailable(
        f"the database {path} is damaged ({text}) and was left unchanged; restore a backup, or "
        "move it away to start with an empty one",
        damaged=True,
    )


def _refused(path: Path) -> str:
    """Which file is in the way, and the remedy.

    SQLite needs to write the database, both files beside it, and their directory.
    """
    parts = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    for part in (path.parent, *parts):
        if part.exists() and not os.access(part, os.R_OK | os.W_OK):
            if os.statvfs(part).f_flag & os.ST_RDONLY:
                return f"{part} is on a read-only file system; mount it writable"
            return f"{part} is not writable for uid {os.geteuid()}; chown it"
        if part.is_dir() and part != path.parent:
            return f"{part} is a directory; move it away"
    return f"check the permissions of the files in {path.parent}"


async def _prepare(
    db: aiosqlite.Connection, path: Path, latest: int, *, check: bool, busy_s: float
) -> None:
    version = await _version(db)
    if version > latest:
        raise Conflict(
            f"the database {path} has version {version}, but this program supports at most "
            f"{latest}; install the newer version again, or move the file away"
        )
    if check:
        async with db.execute("PRAGMA quick_check(1)") as cursor:
            row = await cursor.fetchone()
        if row is None or row[0] != "ok":
            raise sqlite3.DatabaseError(row[0] if row else "the check returned nothing")
    await _use_wal(db, busy_s)
    await db.execute("PRAGMA synchronous = FULL")
    await db.execute("PRAGMA foreign_keys = ON")


async def _use_wal(db: aiosqlite.Connection, busy_s: float) -> None:
    """Switch to WAL; SQLite does not itself wait for other connections that open the file."""
    until = asyncio.get_running_loop().time() + busy_s
    while True:
        try:
            await db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as e:
            if not _is_busy(e) or asyncio.get_running_loop().time() > until:
                raise
        await asyncio.sleep(0.01)


async def _version(db: aiosqlite.Connection) -> int:
    async with db.execute("PRAGMA user_version") as cursor:
        row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def _apply(
    db: aiosqlite.Connection, path: Path, number: int, script: str, busy_s: float
) -> None:
    """Apply script `number` unless already applied; safe against concurrent connections."""
    if await _version(db) >= number:
        return
    try:
        await db.execute("BEGIN IMMEDIATE")
        if await _version(db) < number:
            for statement in statements(script):
                await db.execute(statement)
            await db.execute(f"PRAGMA user_version = {number}")
        await db.commit()
    except sqlite3.Error as e:
        with suppress(sqlite3.Error):  # the disk may be too full even for that
            await db.rollback()
        if _is_busy(e) or _is_full(path, e) or _code(e) in (*_REFUSED, *_FAILING):
            raise _unusable(path, e, busy_s) from None
        raise InvalidParams(
            f"migration {number} of the database {path} failed: {e}; the database is still at "
            f"version {number - 1}"
        ) from None
    except BaseException:
        await db.rollback()
        raise
