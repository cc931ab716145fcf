"""SIGKILL at random moments, and damage to each file: what a node knew of its peers comes back."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from aitorrentd.errors import AitorrentError, InvalidParams
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.transport.transport_nodes import Identity

pytestmark = [pytest.mark.slow]
QUIET: Final[dict[str, Any]] = {
    "plugins": {
        "discovery": {"enabled": True, "mdns": False},
        **{name: {"enabled": False} for name in ("inference", "ollama", "openai", "shards")},
    }
}
KILLS: Final = 20


async def peers(daemon: Daemon) -> list[str]:
    return [row["id"] for row in (await daemon.call("transport.peers"))["peers"]]


async def bans(daemon: Daemon) -> set[str]:
    return {row["subject"] for row in (await daemon.call("transport.bans"))["bans"]}


async def known_to_dht(daemon: Daemon) -> int:
    return int((await daemon.call("dht.stats"))["nodes"])


async def change_until_killed(daemon: Daemon, draw: random.Random, done: set[str]) -> None:
    """Ban strangers one after another; `done` gets those that the daemon confirmed."""
    try:
        while True:
            subject = Identity(f"stranger {draw.random()}").peer_id
            await daemon.call("transport.ban", {"subject": subject, "seconds": 3600})
            done.add(subject)
            await asyncio.sleep(draw.random() / 50)
    except InvalidParams:
        raise
    except (AitorrentError, OSError):
        return  # it was killed


@pytest.mark.timeout(600)
async def test_node_killed_twenty_times_at_random_keeps_bans_peers_and_contacts(
    daemon_factory: DaemonFactory,
) -> None:
    draw = random.Random(20)
    hub = await daemon_factory(QUIET)
    (address, *_) = (await hub.call("transport.addresses"))["addresses"]
    daemon = await daemon_factory(QUIET)
    await daemon.call("transport.connect", {"address": address})
    identity = await daemon.call("node.id")
    hub_id = (await hub.call("node.id"))["id"]
    banned: set[str] = set()
    for round_ in range(KILLS):
        changing = asyncio.ensure_future(change_until_killed(daemon, draw, banned))
        # From the first change to well after the first savings.
        await asyncio.sleep(draw.uniform(0.0, 1.5))
        await daemon.kill()
        await changing
        if draw.random() < 0.3:
            # And while it starts.
            daemon = await daemon_factory(directory=daemon.directory, ready=False)
            await asyncio.sleep(draw.uniform(0.2, 2.0))
            await daemon.kill()
        daemon = await daemon_factory(directory=daemon.directory)
        assert await daemon.call("node.id") == identity
        assert banned <= await bans(daemon), f"round {round_}"
        found = daemon

        async def is_back(daemon: Daemon = found) -> bool:
            return await peers(daemon) == [hub_id]

        await wait_for(is_back, 20, every_s=0.1)
    assert len(banned) > KILLS
    log = daemon.log()
    assert "damaged" not in log and "set aside" not in log
    await wait_for(lambda: known_to_dht(daemon), 20, every_s=0.1)


async def test_node_killed_soon_after_it_joined_finds_its_peers_without_bootstrap(
    daemon_factory: DaemonFactory,
) -> None:
    hub = await daemon_factory(QUIET)
    hub_id = (await hub.call("node.id"))["id"]
    (address, *_) = (await hub.call("transport.addresses"))["addresses"]
    told = {"plugins": {**QUIET["plugins"], "transport": {"bootstrap": [address]}}}
    daemon = await daemon_factory(told)

    async def joined() -> bool:
        return bool(await peers(daemon) and await known_to_dht(daemon))

    await wait_for(joined, 20, every_s=0.1)

    def saved() -> bool:
        with sqlite3.connect(daemon.state_dir / "discovery" / "discovery.sqlite") as db:
            dialled = db.execute("SELECT count(*) FROM dialled").fetchone()[0]
        db.close()
        return bool(dialled) and (daemon.state_dir / "dht" / "contacts").exists()

    await wait_for(saved, 25, every_s=0.2)
    await daemon.kill()
    daemon = await daemon_factory(QUIET, directory=daemon.directory)

    async def is_back() -> bool:
        return hub_id in await peers(daemon)

    await wait_for(is_back, 20, every_s=0.1)


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: len(data) // 2 + 1]


def emptied(data: bytes, draw: random.Random) -> bytes:
    return b""


def noise(data: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(max(len(data), 100))


def holed(data: bytes, draw: random.Random) -> bytes:
    """Zeros in the middle, as a file system leaves after a crash."""
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def saved_files(daemon: Daemon) -> list[Path]:
    """What the plugins keep, without what SQLite has beside its files."""
    rooms = ("transport", "discovery", "dht", "nat")
    files = [f for room in rooms for f in (daemon.state_dir / room).glob("*") if f.is_file()]
    return sorted(f for f in files if not f.name.endswith(("-wal", "-shm", ".damaged")))


@pytest.mark.timeout(600)
async def test_each_damaged_file_is_set_aside_told_and_replaced(
    daemon_factory: DaemonFactory,
) -> None:
    draw = random.Random(3)
    hub = await daemon_factory(QUIET)
    (address, *_) = (await hub.call("transport.addresses"))["addresses"]
    config = {"plugins": {**QUIET["plugins"], "transport": {"bootstrap": [address]}}}
    daemon = await daemon_factory(config)
    damages: list[Callable[[bytes, random.Random], bytes]] = [cut, noise, holed, emptied]
    for damage in damages:
        found = daemon

        async def connected(daemon: Daemon = found) -> bool:
            return bool(await peers(daemon) and await known_to_dht(daemon))

        await wait_for(connected, 30, every_s=0.1)
        await daemon.call("transport.ban", {"subject": "203.0.113.9", "seconds": 3600})
        await daemon.call("dht.put", {"name": "mine", "value": "x"})
        await daemon.stop()
        files = saved_files(daemon)
        assert {file.parent.name for file in files} == {"transport", "discovery", "dht", "nat"}
        for file in files:
            file.write_bytes(damage(file.read_bytes(), draw))
        daemon.log_file.write_text("")
        daemon = await daemon_factory(directory=daemon.directory)
        # An empty file is an empty database.
        read = [file for file in files if damage is not emptied or file.suffix != ".sqlite"]
        asides = {file.with_name(f"{file.name}.damaged") for file in read}

        def untold(asides: set[Path] = asides, daemon: Daemon = daemon) -> list[str]:
            log = daemon.log()
            return [one.name for one in asides if not one.exists() or str(one) not in log]

        with suppress(AssertionError):  # plugins may still start, or read, when the daemon is ready
            await wait_for(lambda: not untold(), 10)
        assert not untold(), f"{damage.__name__}\n{daemon.log()}"
        for aside in asides:
            aside.unlink()
    await wait_for(connected, 30, every_s=0.1)
    for file in saved_files(daemon):
        if file.suffix == ".sqlite":
            with sqlite3.connect(file) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
