"""Which torrents are looked at for credits: those with connections, however many there are."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import libtorrent as lt
import pytest

from aitorrent_seeding.crediting.claims import Claims
from aitorrent_seeding.crediting.crediting import Crediting
from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.session.engine import Engine
from aitorrent_seeding.session.names import Names
from aitorrent_seeding.session.torrent import Torrent
from aitorrentd.api import PluginContext, Transport
from aitorrentd.api.tasks import Tasks, beside
from tests.support.nodes import wait_for

MANY = 10_000
PLACE, OWN = ("192.0.2.1", 6881), (b"o" * 20,)


class Looked:
    """An entry that counts how often it is looked at."""

    def __init__(self) -> None:
        self.torrent = Torrent(lt.torrent_handle(), 1)
        self.peers_of: dict[Any, Any] = {}
        self.info_hash = "a" * 40
        self.from_peers = 0
        self.looks = 0

    @property
    def held(self) -> Any:
        self.looks += 1
        return SimpleNamespace(is_whole=True, sha256="")

    def meet(self, engine: Engine) -> None:
        """A peer connected."""
        self.torrent.links.connected(PLACE, OWN, 0.0)
        engine.met.add(self.torrent)


@pytest.mark.slow
async def test_only_torrents_with_connections_are_looked_at() -> None:
    log = logging.getLogger("test")
    engine = Engine(None, 1, Names("-XX0001-", 0.0), log)
    ctx = cast(PluginContext, SimpleNamespace(publish=lambda event: None))
    transport = cast(Transport, SimpleNamespace(peers=lambda: ()))
    crediting = Crediting(ctx, engine, transport, cast(Claims, None), Tasks(log))
    entries = [Looked() for _ in range(MANY)]
    of = {entry.torrent: cast(Entry, entry) for entry in entries}
    asked: list[Torrent] = []

    def entry_of(torrent: Torrent) -> Entry | None:
        asked.append(torrent)
        return of.get(torrent)

    async with beside(crediting.watch(entry_of), "watch"):
        for entry in entries[5:7]:
            entry.meet(engine)
        await wait_for(lambda: all(entry.looks for entry in entries[5:7]), 10)
        late = Torrent(lt.torrent_handle(), 1)  # connected before it is on the shelf
        engine.met.add(late)
        await wait_for(lambda: asked.count(late) >= 2, 10)
        entries[9].torrent = late
        of[late] = cast(Entry, entries[9])
        await wait_for(lambda: entries[9].looks, 10)
        assert not engine.met
    assert {n for n, entry in enumerate(entries) if entry.looks} == {5, 6, 9}
    assert set(asked) == {entries[n].torrent for n in (5, 6, 9)}
    assert len(asked) < 20
