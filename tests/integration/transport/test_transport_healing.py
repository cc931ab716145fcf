"""What goes away by itself is taken up again by itself: ports, locks, damaged caches."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from pathlib import Path

import pytest

from aitorrent_transport.config import TransportConfig
from aitorrent_transport.health import warnings
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import TestNode, node


def codes(of: TestNode) -> dict[str, str]:
    return {w.code: w.text for w in warnings(of.transport)}


def database(path: Path, seed: str) -> Path:
    (found,) = (path / seed).rglob("transport.sqlite")
    return found


async def test_port_that_is_taken_is_waited_for_while_the_node_dials(tmp_path: Path) -> None:
    async with node(tmp_path, "hub") as hub:
        with socket.socket() as taker:
            taker.bind(("127.0.0.1", 0))
            taker.listen()
            port = taker.getsockname()[1]
            async with node(tmp_path, "late", port=port, bootstrap=[hub.address]) as late:
                await wait_for(late.transport.peers)
                assert f"port {port}/tcp is taken (EADDRINUSE)" in codes(late)["listen"]
                assert not late.transport.bound
                taker.close()
                await wait_for(lambda: late.transport.bound == [("127.0.0.1", port)], 10)
                assert "listen" not in codes(late)
                checks = {check.name: check for _, check in late.kernel.checks()}
                assert (await checks["port"].run()).status == "ok"


async def test_damaged_known_peers_are_set_aside_and_the_node_starts_empty(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(tmp_path, "hub") as hub:
        async with node(tmp_path, "a") as a:
            await a.transport.connect(hub.address)
            assert await a.transport.store.all()
        file = database(tmp_path, "a")
        damage = bytes(4096) + b"not a database" * 500
        file.write_bytes(damage)
        async with node(tmp_path, "a") as a:
            assert await a.transport.store.all() == []
            assert file.with_name("transport.sqlite.damaged").read_bytes() == damage
            await a.transport.connect(hub.address)
            assert await a.transport.store.all()
            assert not a.transport.store.problem
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert sum("the database of known peers was damaged" in text for text in told) == 1


async def test_locked_known_peers_are_taken_up_when_the_lock_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrentd.kernel.context.database.BUSY_S", 0.1)
    async with node(tmp_path, "hub") as hub, node(tmp_path, "other") as other:
        async with node(tmp_path, "a") as a:
            await a.transport.connect(hub.address)
        lock = sqlite3.connect(database(tmp_path, "a"))
        lock.execute("PRAGMA locking_mode = EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
        async with node(tmp_path, "a") as a:
            assert "known peers are currently not being saved" in codes(a)["known_peers"]
            await a.transport.connect(other.address)
            lock.close()
            await wait_for(lambda: not a.transport.store.problem, 20)
            await wait_for(lambda: a.transport.peer(hub.id), 10)  # what the last run wanted
        async with node(tmp_path, "a") as a:
            assert {k.peer for k in await a.transport.store.all()} == {hub.id, other.id}


async def test_full_disk_that_has_room_again_is_no_longer_a_warning(tmp_path: Path) -> None:
    async with node(tmp_path, "hub") as hub, node(tmp_path, "a") as a:
        store = a.transport.store
        await store._db.execute("PRAGMA max_page_count = 1")
        await store._change(("CREATE TABLE filler (x)", ()))
        assert "database or disk is full" in codes(a)["known_peers"]
        await store._db.execute("PRAGMA max_page_count = 1000000")
        await a.transport.connect(hub.address)
        assert "known_peers" not in codes(a)
        await asyncio.sleep(0)


async def test_default_listens_on_both_families_and_tells_no_address_with_a_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path, "a", listen=list(TransportConfig().listen)) as a:
        hosts = {host for host, _ in a.transport.bound}
        assert "0.0.0.0" in hosts
        assert not any("%" in address or "/fe80" in address for address in a.transport.addresses())
        assert len({port for _, port in a.transport.bound}) == 1
        monkeypatch.setattr(
            "aitorrent_transport.peers.own.own_addresses",
            lambda version: ["127.0.0.1"] if version == 4 else ["::1"],
        )
        a.transport._own.forget()
        assert "no other machine can reach this node" in codes(a)["unreachable"]
