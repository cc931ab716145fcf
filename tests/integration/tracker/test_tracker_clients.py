"""libtorrent as the client: two sessions that know only the tracker share a torrent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from tests.integration.tracker.test_tracker_sockets import config, port_of, stats
from tests.support.nodes import NodeFactory, wait_for

BYTES = bytes(range(256)) * 4096
QUIET = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    # How long the end of a session waits for the tracker.
    "stop_tracker_timeout": 1,
}


def torrent(folder: Path, tracker: str) -> lt.torrent_info:
    folder.mkdir()
    (folder / "weights.bin").write_bytes(BYTES)
    files = lt.list_files(str(folder / "weights.bin"))
    made = lt.create_torrent(files, piece_size=65_536, flags=lt.create_torrent.v1_only)
    made.add_tracker(tracker)
    lt.set_piece_hashes(made, str(folder))
    return lt.torrent_info(made.generate())


def session(host: str) -> lt.session:
    listen = f"[{host}]:0" if ":" in host else f"{host}:0"
    settings: Any = {**QUIET, "listen_interfaces": listen}
    made: lt.session = lt.session(settings)
    return made


def wanted(info: lt.torrent_info, folder: Path) -> lt.add_torrent_params:
    params = lt.add_torrent_params()
    params.ti = info
    params.save_path = str(folder)
    return params


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("scheme", ["http", "udp"])
async def test_two_clients_share_a_torrent_through_the_tracker(
    scheme: str, host: str, node_factory: NodeFactory, tmp_path: Path
) -> None:
    node = await node_factory(config())
    place = f"[{host}]" if ":" in host else host
    url = f"{scheme}://{place}:{await port_of(node)}/announce"
    info = torrent(tmp_path / "seed", url)

    async def counts() -> tuple[int, int, int]:
        found = await stats(node)
        return found["seeds"], found["leechers"], found["completed"]

    # A list, so that nothing else keeps a session alive: its end blocks, in a thread of its own.
    sessions = [session(host), session(host)]
    try:
        sessions[0].add_torrent(wanted(info, tmp_path / "seed"))

        async def is_seeding() -> bool:
            return await counts() == (1, 0, 0)

        await wait_for(is_seeding, 30)
        loading = sessions[1].add_torrent(wanted(info, tmp_path / "leech"))
        await wait_for(lambda: loading.status().is_seeding, 60)

        async def is_completed() -> bool:
            return await counts() == (2, 0, 1)

        await wait_for(is_completed, 30)
        assert (tmp_path / "leech" / "weights.bin").read_bytes() == BYTES
        assert (await stats(node))["counts"][f"{scheme}_announces"] >= 3
        for one in range(2):
            sessions[one].remove_torrent(sessions[one].get_torrents()[0])

        async def is_empty() -> bool:
            return (await counts())[:2] == (0, 0)

        await wait_for(is_empty, 30)
    finally:
        await asyncio.to_thread(sessions.clear)
