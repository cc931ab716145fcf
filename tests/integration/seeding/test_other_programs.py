"""qBittorrent, Transmission and aria2 fetch from a node, and a node fetches from them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrent_seeding.torrents import bencode, canonical
from aitorrent_seeding.torrents.hashing import hash_file
from tests.support.clients.programs import Client
from tests.support.clients.street import HELD_S, NEEDS, NODE, PROGRAMS, street
from tests.support.clients.torrents import NAME, torrent
from tests.support.nodes import DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, settings

pytestmark = NEEDS
TRACKER = f"http://{NODE}:6969/announce"


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace in which each program has an address."""
    with street() as name:
        yield name


def announced(path: Path) -> tuple[bytes, str]:
    """The canonical torrent of a file with the tracker, and its name."""
    hashes, _ = hash_file(path)
    info = bencode.decode(canonical.metainfo(hashes)).value[b"info"]
    return bencode.encode({b"announce": TRACKER.encode(), b"info": info}), hashes.sha256


async def test_programs_fetch_from_a_node_and_a_node_fetches_from_them(
    namespace: str, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    tables = {
        "transport": {"listen": NODE},
        "dht": {"enabled": False},
        "tracker": {"enabled": True, "listen": NODE, "open": True},
        "seeding": settings(listen=NODE),
    }
    node = await daemon_factory({"plugins": tables}, namespace=namespace)
    make_file(tmp_path / "ours", 6 * MIB)
    shared = await node.call(
        "seeding.share", {"path": str(tmp_path / "ours"), "trackers": [TRACKER]}
    )
    raw, name = announced(tmp_path / "ours")
    info_hash = shared["files"][0]["info_hash"]
    programs: list[Client] = []
    try:
        for n, (address, kind) in enumerate(PROGRAMS.items()):
            program = kind(namespace, address, tmp_path / kind.__name__)
            programs.append(program)
            (tmp_path / f"to-{n}").mkdir()
            program.add(raw, tmp_path / f"to-{n}")

            theirs = torrent(tmp_path / f"from-{n}", TRACKER, seed=n, size=2 * MIB)
            program.add(theirs.metainfo, tmp_path / f"from-{n}")
            items = await download(node, torrent=theirs.metainfo, timeout_s=HELD_S)
            path = Path(items[-1]["path"])
            assert path.name == NAME
            assert path.read_bytes() == theirs.content, kind.__name__

        await wait_for(lambda: all(info_hash in p.complete() for p in programs), HELD_S)
        for n in range(len(PROGRAMS)):
            got = (tmp_path / f"to-{n}" / name).read_bytes()
            assert got == (tmp_path / "ours").read_bytes()
    finally:
        for program in programs:
            await asyncio.to_thread(program.stop)
