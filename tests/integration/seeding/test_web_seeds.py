"""Web seeds that a torrent names (BEP 19): asked beside peers, and again after a restart."""

from __future__ import annotations

from pathlib import Path

import libtorrent as lt
import pytest

from aitorrent_seeding.torrents import bencode
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, make_file, seeding_daemon, torrents
from tests.support.seeding.kill_works import sha256_of
from tests.support.seeding.web import file_server

SIZE = 12 * MIB + 345


def torrent_of(path: Path, web_seed: str) -> bytes:
    """What another program makes of a file, with the address of a copy on the web."""
    made = lt.create_torrent(lt.list_files(str(path)), MIB, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(path.parent))
    made.add_url_seed(web_seed)
    return bencode.encode(made.generate())


async def done(daemon: Daemon) -> int:
    rows = await torrents(daemon)
    return int(rows[0]["done"]) if rows else 0


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_web_seeds_of_a_torrent_are_asked_again_after_a_restart(
    daemon_factory: DaemonFactory, tmp_path: Path, end: str
) -> None:
    """Nobody asks for it again, and no peer has it."""
    digest = make_file(tmp_path / "weights.bin", SIZE)
    async with file_server((tmp_path / "weights.bin").read_bytes()) as web:
        web.rate_bps = 2 * MIB
        raw = torrent_of(tmp_path / "weights.bin", web.url.partition("?")[0])
        a = await seeding_daemon(daemon_factory)
        async with await a.client(60.0) as client:
            asked = client.stream("seeding.download", {"torrent": raw})
            async for item in asked:
                if item["done"] >= 2 * MIB:
                    break
            await (a.stop() if end == "stopped" else a.kill())
        before = len(web.requests)
        web.rate_bps = 0

        a = await seeding_daemon(daemon_factory, directory=a.directory)

        async def is_whole() -> bool:
            return [row["state"] for row in await torrents(a)] == ["seeding"]

        await wait_for(is_whole, 60)
        assert len(web.requests) > before
    (row,) = await torrents(a)
    assert sha256_of(Path(row["path"])) == digest
