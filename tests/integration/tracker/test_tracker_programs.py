"""The clients that people use, as seeds and as leechers, through the tracker of a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import libtorrent as lt
import pytest

from tests.integration.tracker.test_tracker_sockets import config
from tests.support.clients.programs import REASON, Client
from tests.support.clients.street import HELD_S, LIBTORRENT, NEEDS, PROGRAMS, street
from tests.support.clients.street import NODE as TRACKER
from tests.support.clients.torrents import NAME, Libtorrent, Torrent, torrent
from tests.support.nat.namespaces import socket_in
from tests.support.nodes import DaemonFactory, wait_for

pytestmark = NEEDS
STEPS = ("seeded by", "fetched by")
BYTES = 2 * 2**20


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace in which each program has an address."""
    with street() as name:
        yield name


def scraped(namespace: str, info_hash: str) -> dict[bytes, int]:
    """What the tracker says about a torrent."""
    connection = http.client.HTTPConnection(TRACKER, 6969)
    connection.sock = socket_in(namespace, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(20)
        connection.sock.connect((TRACKER, 6969))
        key = bytes.fromhex(info_hash)
        connection.request("GET", f"/scrape?info_hash={quote_from_bytes(key, safe='')}")
        reply: Any = lt.bdecode(connection.getresponse().read())
        found: dict[bytes, int] = reply[b"files"][key]
        return found
    finally:
        connection.close()


@pytest.mark.parametrize("scheme", ["http", "udp"])
async def test_programs_seed_to_libtorrent_and_fetch_from_it(
    scheme: str, namespace: str, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    setup = config(listen=TRACKER, port=6969)
    daemon = await daemon_factory(setup, namespace=namespace)
    made: list[Client] = []
    ours = Libtorrent(LIBTORRENT, namespace)
    downloads: list[tuple[Torrent, Client | Libtorrent, Path]] = []
    try:
        for at, (address, kind) in enumerate(PROGRAMS.items()):
            client = kind(namespace, address, tmp_path / kind.__name__)
            made.append(client)
            pairs: list[tuple[Client | Libtorrent, Client | Libtorrent]]
            pairs = [(client, ours), (ours, client)]
            for step, (seed, leech) in enumerate(pairs):
                folder = tmp_path / f"{kind.__name__}-{step}"
                url = f"{scheme}://{TRACKER}:6969/announce"
                shared = torrent(folder / "seed", url, seed=2 * at + step, size=BYTES)
                (folder / "leech").mkdir()
                seed.add(shared.metainfo, folder / "seed")
                leech.add(shared.metainfo, folder / "leech")
                downloads.append((shared, leech, folder / "leech" / NAME))

        def are_here() -> bool:
            return all(shared.info_hash in leech.complete() for shared, leech, _ in downloads)

        await wait_for(are_here, HELD_S, every_s=0.25)
        for shared, _, file in downloads:
            assert file.read_bytes() == shared.content

        names = [f"{step} {kind.__name__}" for kind in PROGRAMS.values() for step in STEPS]
        once = {name: {b"complete": 2, b"downloaded": 1, b"incomplete": 0} for name in names}

        def counts() -> dict[str, dict[bytes, int]]:
            found = [scraped(namespace, shared.info_hash) for shared, _, _ in downloads]
            return dict(zip(names, found, strict=True))

        with contextlib.suppress(AssertionError):  # the difference says more
            await wait_for(lambda: counts() == once, 30, every_s=0.25)
        assert counts() == once
        stats = await daemon.call("tracker.stats")
        other = {"http": "udp", "udp": "http"}[scheme]
        assert stats["counts"][f"{scheme}_announces"] >= 3 * len(names)
        assert f"{other}_announces" not in stats["counts"]
        for client in made:
            client.leave()
        ours.remove()
        gone = {name: {b"complete": 0, b"downloaded": 1, b"incomplete": 0} for name in names}
        with contextlib.suppress(AssertionError):
            await wait_for(lambda: counts() == gone, 30, every_s=0.25)
        assert counts() == gone
    finally:
        for client in made:
            await asyncio.to_thread(client.stop)
        await asyncio.to_thread(ours.stop)


@pytest.mark.skipif(not shutil.which("transmission-show"), reason=REASON)
def test_programs_read_the_torrents_of_these_tests(tmp_path: Path) -> None:
    shared = torrent(tmp_path / "seed", "http://10.77.0.1:6969/announce", seed=1, size=BYTES)
    file = tmp_path / "a.torrent"
    file.write_bytes(shared.metainfo)
    for command in (["transmission-show", str(file)], ["aria2c", "-S", str(file)]):
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert shared.info_hash in shown.stdout and NAME in shown.stdout
