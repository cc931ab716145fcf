"""The catalogue's databases: migrations, several trackers on one PostgreSQL, and failures."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aitorrent_tracker.catalogue.sql import postgres as postgres_module
from aitorrent_tracker.catalogue.sql.database import for_sqlite
from aitorrent_tracker.catalogue.sql.postgres import open_postgres
from aitorrent_tracker.catalogue.sql.schema import POSTGRES, SQLITE
from aitorrent_tracker.catalogue.sql.searching import Search, condition
from aitorrent_tracker.catalogue.sql.store import Capacity, Store
from aitorrentd.api import Conflict, Unavailable
from tests.support.catalogue.publishing import Publisher
from tests.support.catalogue.trackers import Trackers, call, fresh
from tests.support.nodes import wait_for
from tests.support.servers.postgres import PostgresServer

ALICE, BOB = Publisher("alice"), Publisher("bob")
LISTED: dict[str, Any] = {"publishers": [ALICE.peer_id, BOB.peer_id]}
_ROW = (
    "INSERT INTO catalogue_publications (repo_id, commit_hash, filename, size, sha256, info_hash,"
    " info_hash_v2, piece_length, v2_root, publisher, signature, document, gated, state,"
    " published_at, changed, searched) VALUES ('old/model', '{c}', 'a.gguf', 5, '', '{h}', '',"
    " 16384, '', '', '', '', 0, 'approved', 1, 1, 'old/model/a.gguf')"
).format(c="c" * 40, h="e" * 40)


def test_scripts_are_numbered_alike_in_both_dialects() -> None:
    assert list(SQLITE) == list(POSTGRES) == list(range(1, len(SQLITE) + 1))
    assert not any("{" in script for script in (*SQLITE.values(), *POSTGRES.values()))


@pytest.mark.parametrize("version", range(1, len(POSTGRES) + 1))
async def test_postgres_is_migrated_from_each_version_and_keeps_its_rows(
    postgres: PostgresServer, version: int
) -> None:
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    postgres.query(name, "CREATE TABLE catalogue_version (version BIGINT NOT NULL)")
    for number in range(1, version + 1):
        postgres.query(name, POSTGRES[number])
        postgres.query(name, f"INSERT INTO catalogue_version VALUES ({number})")
    postgres.query(name, _ROW)
    for _ in range(2):  # migrated, then opened as it is
        async with open_postgres(url) as database:
            (entry,) = await Store(database, Capacity()).files("old/model", limit=9)
            assert (entry.filename, entry.file_count) == ("a.gguf", 1)
    assert postgres.query(name, "SELECT MAX(version) FROM catalogue_version") == str(len(POSTGRES))


@pytest.mark.parametrize("version", range(1, len(SQLITE) + 1))
async def test_sqlite_is_migrated_from_each_version_and_keeps_its_rows(
    trackers: Trackers, tmp_path: Path, version: int
) -> None:
    one = await trackers(**LISTED)
    await one.node.stop()
    (file,) = (tmp_path / "tracker-0").rglob("catalogue.sqlite")
    for each in file.parent.glob("catalogue.sqlite*"):
        each.unlink()
    with sqlite3.connect(file) as db:
        for number in range(1, version + 1):
            db.executescript(SQLITE[number])
        db.execute(_ROW)
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    node = await trackers.factory(
        {"plugins": {"tracker": one.settings | {"port": one.port}}}, state_dir=one.state_dir
    )
    one.node = node
    await one.wait_until_open()
    assert [each["repo_id"] for each in await one.listed()] == ["old/model"]
    assert len(await one.listed(q="mode A.GGUF")) == 1 and await one.listed(q="other") == []
    assert b"complete" in await one.announce("e" * 40)


async def test_words_are_found_by_an_index_and_not_by_reading_every_row(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    asked = Search(text='tra_10 "quoted%" zz')
    where, values = condition(asked, has_words=True)
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as db:
        for script in SQLITE.values():
            db.executescript(script)
        sql = f"EXPLAIN QUERY PLAN SELECT * FROM catalogue_publications WHERE {for_sqlite(where)}"
        plan = " / ".join(row[3] for row in db.execute(sql, values))
    assert "SCAN catalogue_words VIRTUAL TABLE INDEX" in plan
    assert "SCAN catalogue_publications" not in plan and "catalogue_by_state" not in plan
    async with open_postgres(postgres.new_database()) as database, database.writing() as tables:
        where, values = condition(Search(text="tra_10"), has_words=database.has_words)
        # In an empty table, these suit as well.
        await tables.rows("DROP INDEX catalogue_by_state, catalogue_by_publisher")
        await tables.rows("SET LOCAL enable_seqscan = off")
        await tables.rows("SET LOCAL enable_indexscan = off")
        sql = f"EXPLAIN SELECT * FROM catalogue_publications WHERE {where}"
        plan = " / ".join(row["QUERY PLAN"] for row in await tables.rows(sql, *values))
        assert "Bitmap Index Scan on catalogue_by_words" in plan, plan


async def test_without_pg_trgm_words_are_found_all_the_same(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {**POSTGRES, 5: POSTGRES[5].replace("pg_trgm", "not_installed")}
    monkeypatch.setattr(postgres_module, "POSTGRES", missing)
    async with open_postgres(postgres.new_database()) as database:
        async with database.writing() as tables:
            await tables.rows(_ROW)
        found, count = await Store(database, Capacity()).search(
            Search(text="gguf OLD"), before=0, limit=9
        )
        assert count == 1 and found[0].repo_id == "old/model"


async def test_database_of_a_newer_program_is_left_alone(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    name = url.partition("@/")[2].partition("?")[0]
    async with open_postgres(url):
        pass
    postgres.query(name, "INSERT INTO catalogue_version VALUES (99)")
    with pytest.raises(Conflict, match="a newer aitorrentd wrote"):
        async with open_postgres(url):
            pass


async def test_two_processes_that_start_together_migrate_once(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    async def opened() -> None:
        async with open_postgres(url) as database:
            await database.rows("SELECT 1")

    await asyncio.gather(*(opened() for _ in range(6)))


async def test_unreachable_database_is_named_without_its_password() -> None:
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        async with open_postgres("postgresql://test:hunter2@127.0.0.1:1/x"):
            pass
    assert "hunter2" not in str(caught.value)


async def test_two_trackers_share_one_catalogue_and_one_outlives_the_other(
    trackers: Trackers, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    one, two = await trackers(url, **LISTED), await trackers(url, **LISTED)
    posted = fresh(ALICE)
    info_hash = posted["publication"]["info_hash"]
    assert (await one.publish(posted)).status_code == 201
    assert (await two.listed())[0]["info_hash"] == info_hash

    async def serves(wanted: bytes) -> bool:
        return wanted in await two.announce(info_hash)

    await wait_for(lambda: serves(b"complete"))
    # A replay is known to the other tracker, too.
    assert (await two.publish(posted)).json()["outcome"] == "unchanged"
    await one.node.stop()
    assert (await two.publish(fresh(BOB, filename="b.gguf"))).status_code == 201
    assert (await two.admin("DELETE", f"/{(await two.listed())[-1]['id']}")).status_code == 200
    await wait_for(lambda: serves(b"unregistered"))


async def test_what_many_publish_at_once_on_two_trackers_is_all_there_once(
    trackers: Trackers, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    one, two = await trackers(url, **LISTED), await trackers(url, **LISTED)
    same = [each.publish(fresh(who)) for each in (one, two) for who in (ALICE, BOB) * 5]
    others = [
        each.publish(fresh(ALICE, filename=f"{name}-{i}.gguf"))
        for name, each in (("one", one), ("two", two))
        for i in range(15)
    ]
    replies = await asyncio.gather(*same, *others)
    codes = sorted(reply.status_code for reply in replies[: len(same)])
    assert codes == [200] * 19 + [201]
    assert {reply.status_code for reply in replies[len(same) :]} == {201}
    found = await one.listed(limit=200)
    assert len(found) == 31
    assert sorted(e["id"] for e in found) == sorted(e["id"] for e in await two.listed(limit=200))

    async def all_served() -> bool:
        return all([(await call(t.node, "tracker.stats"))["published"] == 31 for t in (one, two)])

    await wait_for(all_served)


async def test_tracker_serves_on_while_postgres_is_away_and_recovers(trackers: Trackers) -> None:
    server = PostgresServer()
    try:
        one = await trackers(server.new_database(), **LISTED)
        posted = fresh(ALICE)
        assert (await one.publish(posted)).status_code == 201
        server.stop()
        info_hash = posted["publication"]["info_hash"]

        async def is_told() -> bool:
            return "database" in str((await call(one.node, "tracker.stats"))["problem"])

        await wait_for(is_told, 20)
        assert b"complete" in await one.announce(info_hash)
        reply = await one.client.get("/api/v1/torrents")
        assert reply.status_code == 503 and "password" not in reply.text
        assert (await one.client.get("/")).status_code == 503
        assert (await one.publish(fresh(ALICE, filename="x"))).status_code == 503
        server.start()
        await one.wait_until_open()
        assert len(await one.listed()) == 1
        assert (await one.publish(fresh(ALICE, filename="x"))).status_code == 201
    finally:
        server.close()
