"""A plugin's database: migrations, damage, and versions from the future."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.api import Busy, Conflict, InvalidParams, Unavailable
from aitorrentd.kernel.context import database
from aitorrentd.kernel.context.database import BUSY_S, open_database, statements
from tests.support.effort import examples

ONE = "CREATE TABLE peer (id TEXT PRIMARY KEY); INSERT INTO peer VALUES ('a;b');"
TWO = """
-- who vouches; for whom
CREATE TABLE trust (peer TEXT NOT NULL REFERENCES peer (id), level REAL);
CREATE TRIGGER grow AFTER INSERT ON peer BEGIN
  INSERT INTO trust VALUES (new.id, 0.5);
  INSERT INTO trust VALUES (new.id, 0.6);
END;
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


async def rows(
    path: Path, migrations: dict[int, str], query: str, *, busy_s: float = BUSY_S
) -> list[tuple[object, ...]]:
    async with (
        open_database(path, migrations, busy_s=busy_s) as db,
        db.execute(query) as cursor,
    ):
        return [tuple(row) for row in await cursor.fetchall()]


async def test_new_database_is_private_and_at_the_latest_version(path: Path) -> None:
    assert await rows(path, {1: ONE, 2: TWO}, "SELECT id FROM peer") == [("a;b",)]
    assert await rows(path, {1: ONE, 2: TWO}, "PRAGMA user_version") == [(2,)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_connection_uses_wal_and_foreign_keys(path: Path) -> None:
    assert await rows(path, {1: ONE}, "PRAGMA journal_mode") == [("wal",)]
    assert await rows(path, {1: ONE}, "PRAGMA foreign_keys") == [(1,)]
    async with open_database(path, {1: ONE, 2: TWO}) as db:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            await db.execute("INSERT INTO trust VALUES ('nobody', 1.0)")


async def test_only_scripts_not_yet_applied_run(path: Path) -> None:
    await rows(path, {1: ONE}, "SELECT 1")
    query = "SELECT level FROM trust ORDER BY level"
    async with open_database(path, {1: ONE, 2: TWO}) as db:
        await db.execute("INSERT INTO peer VALUES ('c')")
        await db.commit()
    assert await rows(path, {1: ONE, 2: TWO}, query) == [(0.5,), (0.6,)]


async def test_script_that_fails_leaves_the_version_before_it(path: Path) -> None:
    bad = {1: ONE, 2: "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1);"}
    with pytest.raises(InvalidParams, match="migration 2 of the database .* failed: no such table"):
        await rows(path, bad, "SELECT 1")
    tables = await rows(path, {1: ONE}, "SELECT name FROM sqlite_master WHERE type = 'table'")
    assert tables == [("peer",)]


async def test_two_connections_apply_a_script_once(path: Path) -> None:
    answers = await asyncio.gather(
        *(rows(path, {1: ONE, 2: TWO}, "SELECT count(*) FROM peer") for _ in range(8))
    )
    assert answers == [[(1,)]] * 8


async def test_database_locked_by_somebody_else_is_busy_and_not_damaged(path: Path) -> None:
    await rows(path, {1: ONE}, "SELECT 1")
    other = sqlite3.connect(path)
    try:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Busy, match="has been locked by another process"):
            await rows(path, {1: ONE, 2: TWO}, "SELECT 1", busy_s=0.05)
    finally:
        other.close()


async def test_uncommitted_work_is_not_kept(path: Path) -> None:
    with pytest.raises(RuntimeError, match="crash"):
        async with open_database(path, {1: ONE}) as db:
            await db.execute("INSERT INTO peer VALUES ('c')")
            raise RuntimeError("crash")
    assert await rows(path, {1: ONE}, "SELECT count(*) FROM peer") == [(1,)]


async def test_newer_database_is_refused_and_left_alone(path: Path) -> None:
    await rows(path, {1: ONE, 2: TWO}, "SELECT 1")
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"has version 2, but this program supports at most 1"):
        await rows(path, {1: ONE}, "SELECT 1")
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "head", "middle", "cut"])
async def test_damaged_database_is_refused_and_left_alone(path: Path, damage: str) -> None:
    fill = "; ".join(f"INSERT INTO peer VALUES ('{n:0200}')" for n in range(500))
    await rows(path, {1: ONE + fill + ";"}, "SELECT 1")
    good = path.read_bytes()
    bad = {
        "text": b"this is not a database at all\n" * 40,
        "head": b"\0" * 100 + good[100:],
        "middle": good[:8192] + b"\xff" * 8192 + good[16384:],
        "cut": good[: len(good) // 2],
    }[damage]
    path.write_bytes(bad)
    with pytest.raises(Unavailable, match=r"is damaged \(.*\) and was left unchanged"):
        await rows(path, {1: ONE}, "SELECT 1")
    assert path.read_bytes() == bad


async def test_directory_in_its_place_is_a_clear_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(Unavailable, match="cannot open the database .*: Is a directory"):
        await rows(path, {}, "SELECT 1")


async def test_migrations_are_numbered_without_holes(path: Path) -> None:
    with pytest.raises(InvalidParams, match=r"numbered 1, 2, 3 …; these are \[1, 3\]"):
        await rows(path, {1: ONE, 3: TWO}, "SELECT 1")
    assert not path.exists()


def test_unfinished_statement_is_refused() -> None:
    with pytest.raises(InvalidParams, match='ends in the middle of a statement: "INSERT INTO a '):
        list(statements("CREATE TABLE a (x); INSERT INTO a VALUES ('b"))


def test_last_statement_may_do_without_its_semicolon() -> None:
    assert list(statements("CREATE TABLE a (x)")) == ["CREATE TABLE a (x);"]


def test_comments_alone_are_no_statement() -> None:
    assert list(statements("-- nothing; here\n\n;  ;")) == []


@settings(max_examples=examples(100))
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_texts_with_anything_in_them_never_split_a_statement(texts: list[str]) -> None:
    script = "".join(f"INSERT INTO t VALUES ('{t.replace(chr(39), chr(39) * 2)}');" for t in texts)
    assert len(list(statements(script))) == len(texts)


@pytest.mark.parametrize("part", ["", "-wal", "-shm"])
async def test_file_of_another_user_is_named_and_not_called_damaged(
    part: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rows(path, {1: ONE}, "SELECT 1")
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).touch()
    strange = path.with_name(path.name + part)
    really = os.access
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != strange and really(p, mode))

    def statements(script: str) -> list[str]:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
        raise error

    monkeypatch.setattr(database, "statements", statements)
    with pytest.raises(
        Unavailable, match=rf"readonly database\): {strange} is not writable for uid \d+; chown it"
    ):
        await rows(path, {1: ONE, 2: TWO}, "SELECT 1")


async def test_directory_in_the_place_of_the_log_is_named(path: Path) -> None:
    await rows(path, {1: ONE}, "SELECT 1")
    path.with_name(path.name + "-wal").mkdir()
    with pytest.raises(Unavailable, match=r"-wal is a directory; move it away"):
        await rows(path, {1: ONE}, "SELECT 1")


async def test_disk_that_fails_is_not_called_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statements(script: str) -> list[str]:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    monkeypatch.setattr(database, "statements", statements)
    with pytest.raises(Unavailable, match=r"\(disk I/O error\); check the disk \(dmesg\)"):
        await rows(path, {1: ONE}, "SELECT 1")
