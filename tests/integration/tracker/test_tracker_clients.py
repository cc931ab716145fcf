"""libtorrent as the client: two sessions that know only the tracker share a torrent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.integration.tracker.test_tracker_sockets import config, port_of, stats
from tests.support.clients.torrents import NAME, Libtorrent, torrent
from tests.support.nodes import NodeFactory, wait_for


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("scheme", ["http", "udp"])
async def test_two_clients_share_a_torrent_through_the_tracker(
    scheme: str, host: str, node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = await node_factory(config())
    place = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{place}:{await port_of(node)}/announce"
    shared = torrent(tmp_path / "seed", url, seed=1, size=2**20)
    (tmp_path / "leech").mkdir()

    async def counts() -> tuple[int, int, int]:
        found = await stats(node)
        return found["seeds"], found["leechers"], found["completed"]

    clients = [Libtorrent(host), Libtorrent(host)]
    try:
        clients[0].add(shared.metainfo, tmp_path / "seed")

        async def is_seeding() -> bool:
            return await counts() == (1, 0, 0)

        await wait_for(is_seeding, 30)
        clients[1].add(shared.metainfo, tmp_path / "leech")
        await wait_for(lambda: clients[1].complete() == {shared.info_hash}, 60)

        async def is_completed() -> bool:
            return await counts() == (2, 0, 1)

        await wait_for(is_completed, 30)
        assert (tmp_path / "leech" / NAME).read_bytes() == shared.content
        assert (await stats(node))["counts"][f"{scheme}_announces"] >= 3
        for client in clients:
            client.remove()

        async def is_empty() -> bool:
            return (await counts())[:2] == (0, 0)

        await wait_for(is_empty, 30)
    finally:
        for client in clients:
            await asyncio.to_thread(client.stop)
