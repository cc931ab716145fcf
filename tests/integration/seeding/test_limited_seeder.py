"""A seeder with an upload limit: a crowd costs it one copy, and nobody waits for the crowd."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aitorrentd.api.models.weights import WantedFile
from aitorrentd.api.tasks import beside
from tests.support.nodes import DaemonFactory, NodeFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, seeding_daemon, torrents
from tests.support.seeding.transfers import address_of, sharing_node, weights

PIECE = 4 * MIB
CROWD = 4


@pytest.mark.timeout(180)
async def test_crowd_costs_a_limited_seeder_hardly_more_than_one_copy(
    daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """What one of them has, it passes on; with two served at once, the seeder sends 1.3 copies."""
    size = 72 * MIB
    digest = make_file(tmp_path / "f", size)
    small = make_file(tmp_path / "small", MIB, seed=2)
    seeder = await seeding_daemon(daemon_factory, upload_limit="3MiB/s")
    for name in ("small", "f"):
        await seeder.call("seeding.share", {"path": str(tmp_path / name)})
    nodes = [await seeding_daemon(daemon_factory, seeder)]
    for _ in range(CROWD - 1):
        node = await seeding_daemon(daemon_factory, seeder)
        for other in nodes:
            address = (await other.call("node.id"))["addresses"][0]
            await node.call("transport.connect", {"address": address})
        nodes.append(node)
    for node in nodes:
        await download(node, small)  # starts its session
    await asyncio.gather(*(download(node, digest) for node in nodes))
    (row,) = [row for row in await torrents(seeder) if row["sha256"] == digest]
    assert row["uploaded"] < 1.15 * size


@pytest.mark.timeout(180)
async def test_range_comes_while_a_limited_seeder_serves_a_whole_download(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    """Nobody passes it on, since the other node gets that piece last."""
    size = 128 * MIB
    digest = make_file(tmp_path / "f", size)
    seeder = await sharing_node(node_factory, upload_limit="5MiB/s")
    await weights(seeder).offer(tmp_path / "f")
    first = await sharing_node(node_factory, address_of(seeder))
    whole = await weights(first).fetch(WantedFile(digest, size, "f"))
    async with beside(whole.wait(), "the whole file") as fetching:
        await wait_for(lambda: whole.progress().done >= 2 * PIECE, 60)
        second = await sharing_node(node_factory, address_of(seeder))
        span = (size - PIECE, size)
        part = await weights(second).fetch(WantedFile(digest, size, "f"), ranges=[span])
        await part.want([span])
        assert not fetching.done()
        assert not weights(first).local(digest)
        part.release()
    whole.release()
