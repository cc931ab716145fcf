"""What a tracker keeps across restarts: how many downloads were completed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from aitorrent_tracker import plugin
from tests.integration.tracker.test_tracker_redis import over_http, port_of, scraped
from tests.integration.tracker.test_tracker_sockets import called, config
from tests.support.nodes import Daemon, DaemonFactory, NodeFactory, wait_for


def saved(daemon: Daemon) -> list[int]:
    """The counters in the database; none before it exists."""
    for file in daemon.state_dir.rglob("tracker.sqlite"):
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db,
        ):
            return [row[0] for row in db.execute("SELECT count FROM completed")]
    return []


async def test_counters_outlive_sigkill_and_peers_come_back_by_themselves(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(config(listen="127.0.0.1"))
    port = await port_of(daemon)
    for peer in (7001, 7002, 7003):
        await over_http(port, peer)
        await over_http(port, peer, "completed", left=0)
    await wait_for(lambda: saved(daemon) == [3], 20)
    await daemon.kill()

    daemon = await daemon_factory(directory=daemon.directory)
    port = await port_of(daemon)
    await over_http(port, 7004, "completed", left=0)

    async def are_added() -> bool:
        return await scraped(port) == (1, 0, 4)

    await wait_for(are_added, 20)
    # An orderly stop saves at once.
    await daemon.stop()
    assert saved(daemon) == [4]


async def test_counters_survive_many_kills(daemon_factory: DaemonFactory) -> None:
    daemon = await daemon_factory(config(listen="127.0.0.1"))
    floor = 0
    for round_ in range(3):
        port = await port_of(daemon)
        for peer in range(20):
            await over_http(port, 1000 + 20 * round_ + peer, "completed", left=0)
            await asyncio.sleep(0.005 * round_)
        await daemon.kill()
        count = sum(saved(daemon))
        assert floor <= count <= 20 * (round_ + 1)
        floor = count
        daemon = await daemon_factory(directory=daemon.directory)
    assert "damaged" not in daemon.log()


async def test_damaged_database_is_set_aside_and_counting_starts_anew(
    daemon_factory: DaemonFactory,
) -> None:
    daemon = await daemon_factory(config(listen="127.0.0.1"))
    await over_http(await port_of(daemon), 7001, "completed", left=0)
    await wait_for(lambda: saved(daemon) == [1], 20)
    await daemon.stop()
    file = next(daemon.state_dir.rglob("tracker.sqlite"))
    file.write_bytes(b"no database" * 1000)

    daemon = await daemon_factory(directory=daemon.directory)
    await over_http(await port_of(daemon), 7001, "completed", left=0)
    assert await scraped(await port_of(daemon)) == (1, 0, 1)
    await wait_for(lambda: saved(daemon) == [1], 20)
    assert "the database of the tracker was damaged" in daemon.log()


async def test_without_the_redis_library_the_plugin_is_skipped_and_says_how_to_install_it(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    node = await node_factory(config(storage="redis://127.0.0.1"))
    listed = str(await called(node, "plugin.list"))
    assert "skipped" in listed and "aitorrentctl plugin install 'aitorrentd[redis]'" in listed
