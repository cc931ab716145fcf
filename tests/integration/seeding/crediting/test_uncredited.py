"""Programs that prove nothing are credited nothing, even at the address of a node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aitorrent_seeding.torrents import bencode, canonical
from aitorrent_seeding.torrents.hashing import hash_file
from tests.support.clients.programs import Client, QBittorrent, Transmission
from tests.support.clients.street import HELD_S, LIBTORRENT, NEEDS, NODE, PROGRAMS, street
from tests.support.clients.torrents import torrent
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.seeding.daemons import MIB, download, make_file, settings
from tests.support.seeding.transfers import told_by_daemon

pytestmark = NEEDS
TRACKER = f"http://{NODE}:6969/announce"
SIZE = 6 * MIB
TOLD_S = 40.0


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace in which each program has an address."""
    with street() as name:
        yield name


async def daemon(
    factory: DaemonFactory, namespace: str, address: str, *, hub: Daemon | None = None
) -> Daemon:
    """A daemon at an address; the one there is the tracker, too."""
    known = [] if hub is None else (await hub.call("node.id"))["addresses"]
    tables = {
        "transport": {"listen": address, "bootstrap": known},
        "dht": {"enabled": False},
        "tracker": {"enabled": address == NODE, "listen": address, "open": True},
        "seeding": settings(listen=address),
    }
    return await factory({"plugins": tables}, namespace=namespace)


def announced(path: Path) -> bytes:
    """The canonical torrent of a file with the tracker."""
    info = bencode.decode(canonical.metainfo(hash_file(path)[0])).value[b"info"]
    return bencode.encode({b"announce": TRACKER.encode(), b"info": info})


@pytest.mark.parametrize("kind", [Transmission, QBittorrent])
async def test_program_beside_a_node_gets_no_credit_and_the_node_does(
    namespace: str, daemon_factory: DaemonFactory, tmp_path: Path, kind: type[Client]
) -> None:
    """The program is at the address of another node, and is done first, so it would be told of
    first."""
    address = next(at for at, each in PROGRAMS.items() if each is kind)
    beside = await daemon(daemon_factory, namespace, address)
    a = await daemon(daemon_factory, namespace, NODE, hub=beside)  # so it sees that address
    b = await daemon(daemon_factory, namespace, LIBTORRENT, hub=a)
    who = (await b.call("node.id"))["id"]
    digest = make_file(tmp_path / "ours", SIZE)
    shared = await a.call("seeding.share", {"path": str(tmp_path / "ours"), "trackers": [TRACKER]})
    (ours,) = shared["files"]
    program = kind(namespace, address, tmp_path / kind.__name__)
    try:
        (tmp_path / "to").mkdir()
        async with told_by_daemon(a) as by_a:
            program.add(announced(tmp_path / "ours"), tmp_path / "to")
            await wait_for(lambda: ours["info_hash"] in program.complete(), HELD_S)
            theirs = torrent(tmp_path / "from", TRACKER, seed=1, size=SIZE)
            program.add(theirs.metainfo, tmp_path / "from")
            await download(a, torrent=theirs.metainfo, timeout_s=HELD_S)

            await asyncio.to_thread(program.stop)
            await download(b, digest)
            await wait_for(lambda: by_a.bytes_by("to")[who] >= SIZE, TOLD_S)
    finally:
        await asyncio.to_thread(program.stop)
    assert set(by_a.bytes_by("to")) == {who}
    assert SIZE <= by_a.bytes_by("to")[who] < 2 * SIZE, "what the program got is nobody's"
    assert not by_a.bytes_by("from"), "the program sent it"
    assert not by_a.failed
