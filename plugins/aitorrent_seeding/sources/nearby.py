"""The index that needs no tracker: connected peers are asked, and the directory is searched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from aitorrent_seeding.sources.asking import PeerIndex
from aitorrent_seeding.sources.directory import DirectoryIndex, Endpoint
from aitorrentd.api.models.weights import KnownTorrent, Published


class Nearby:
    """A `TorrentIndex`; also tells where the nodes of a swarm accept BitTorrent peers."""

    def __init__(self, directory: DirectoryIndex, peers: PeerIndex) -> None:
        self.directory = directory
        self.peers = peers

    async def find(self, sha256: str) -> Sequence[KnownTorrent]:
        """Torrents of a file that other nodes share, those that most of them name first."""
        answers = await self.peers.ask_all(sha256=sha256)
        # Whoever is connected answers within a round trip; the network is searched only then.
        named = [answer.torrent for answer in answers] or await self.directory.find(sha256)
        voters: dict[str, list[KnownTorrent]] = {}
        for torrent in named:
            voters.setdefault(torrent.info_hash, []).append(torrent)
        ranked = sorted(voters.values(), key=lambda same: -len(same))
        return [next((t for t in same if t.metainfo), same[0]) for same in ranked]

    async def endpoints(self, *, sha256: str, info_hash: str) -> AsyncIterator[list[Endpoint]]:
        """Where the nodes are that share a torrent: at once those with a channel, then others."""
        answers = await self.peers.ask_all(info_hash=info_hash)
        near = [Endpoint(a.peer, a.host, a.port, is_proven=True) for a in answers if a.host]
        yield near
        proven = {endpoint.peer for endpoint in near}
        found = await self.directory.endpoints(sha256=sha256, info_hash=info_hash)
        yield [endpoint for endpoint in found if endpoint.peer not in proven]

    async def publish(self, torrent: KnownTorrent, source: Published) -> Sequence[str]:
        """Tell other nodes that this one shares a torrent."""
        self.directory.share(torrent)
        return ()
