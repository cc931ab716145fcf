"""What torrents and downloads of this node work with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.library.room import Room
from aitorrent_seeding.library.store import Store
from aitorrent_seeding.session.engine import Engine
from aitorrent_seeding.sources.nearby import Nearby
from aitorrent_seeding.torrents.hashing import Stop
from aitorrentd.api import AitorrentError, PluginContext, Registry
from aitorrentd.api.models.weights import KnownTorrent, Published, TorrentIndex
from aitorrentd.api.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Means:
    """Shared by everything in a running plugin."""

    ctx: PluginContext
    config: SeedingConfig
    engine: Engine
    store: Store
    http: aiohttp.ClientSession
    indexes: Registry[TorrentIndex]
    nearby: Nearby
    directory: Path
    "Where fetched files are kept."
    tasks: Tasks
    room: Room = field(default_factory=Room)
    stop: Stop = field(default_factory=Stop)
    "Ends hashing that runs on threads."
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    "Files that are hashed at the same time."

    async def find(self, sha256: str) -> list[KnownTorrent]:
        """Torrents of a file from every index. An index that fails has none.

        What other nodes say comes last: other indexes know who published a torrent.
        """
        indexes = sorted(self._by_name(), key=lambda named: named[1] is self.nearby)
        asked = await asyncio.gather(*(self._ask(*named, sha256) for named in indexes))
        found: dict[str, KnownTorrent] = {}
        for torrent in (torrent for answer in asked for torrent in answer):
            if torrent.sha256 == sha256:
                known = found.setdefault(torrent.info_hash, torrent)
                if torrent.metainfo and not known.metainfo:
                    found[torrent.info_hash] = replace(known, metainfo=torrent.metainfo)
        return list(found.values())

    def _by_name(self) -> list[tuple[str, TorrentIndex]]:
        return list(zip(self.indexes.names(), self.indexes, strict=True))

    async def _ask(self, name: str, index: TorrentIndex, sha256: str) -> Sequence[KnownTorrent]:
        try:
            async with asyncio.timeout(10.0):
                return await index.find(sha256)
        except (AitorrentError, TimeoutError) as e:
            self.ctx.log.debug("index %s: %s", name, e or "no answer in time")
            return ()

    async def publish(self, torrent: KnownTorrent, source: Published) -> list[str]:
        """Enter a torrent in every index; one that refuses it is logged. Returns the trackers that
        serve it now."""
        trackers: list[str] = []
        for name, index in self._by_name():
            try:
                async with asyncio.timeout(30.0):
                    trackers += await index.publish(torrent, source)
            except (AitorrentError, TimeoutError) as e:
                self.ctx.log.info(
                    "index %s does not list %s: %s", name, torrent.sha256[:12], e or "timeout"
                )
        return trackers
