"""The index without a tracker: nodes publish in the directory which torrents they share.

The record of a file is `ait:file:<sha256>`, that of a torrent `ait:swarm:<info-hash>`; both say on
which port the node accepts BitTorrent peers. The host is that of its channel, or an address of the
node in the directory. A record says what a node claims: only hashes prove it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aitorrentd.api import AitorrentError, Directory, PeerId, Record, Transport
from aitorrentd.api.fields import blob, whole
from aitorrentd.api.models.weights import KnownTorrent
from aitorrentd.api.network.addresses import parse_address

FIND_S: Final = 5.0
MOST: Final = 100
"""Torrents that are published. Each takes two records, and a node sends its peers at most 256;
newer ones replace older ones, which connected peers still find by asking."""
_MAX_SIZE: Final = 2**50
_MAX_PIECE: Final = 2**28


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node accepts BitTorrent peers."""

    peer: PeerId
    host: str
    port: int
    is_proven: bool
    "Whether the host is that of the node's own channel, so that nobody else can name it."


class DirectoryIndex:
    """Publishes and finds torrents in the directory."""

    def __init__(self, directory: Directory, transport: Transport) -> None:
        self._directory = directory
        self._transport = transport
        self._published: dict[str, tuple[str, ...]] = {}
        self.port = 0
        "This node's own BitTorrent port; 0 = none."

    async def find(self, sha256: str) -> Sequence[KnownTorrent]:
        """Torrents of a file that other nodes share, those that most of them name first."""
        found: dict[tuple[str, int, int], list[PeerId]] = {}
        for record in await self._others(f"ait:file:{sha256}"):
            if fields := _read(record.value):
                found.setdefault(fields, []).append(record.peer)
        ranked = sorted(found.items(), key=lambda item: -len(item[1]))
        return [
            KnownTorrent(sha256, size, info_hash, piece, publisher=peers[0])
            for (info_hash, size, piece), peers in ranked
        ]

    async def endpoints(self, *, sha256: str, info_hash: str) -> list[Endpoint]:
        """Where the nodes are that share a torrent."""
        records = await self._others(f"ait:swarm:{info_hash}")
        if sha256:
            records += await self._others(f"ait:file:{sha256}")
        found: dict[tuple[str, int], Endpoint] = {}
        for record in records:
            for endpoint in self._of(record):
                known = found.get((endpoint.host, endpoint.port))
                if known is None or endpoint.is_proven:
                    found[endpoint.host, endpoint.port] = endpoint
        return list(found.values())

    async def _others(self, key: str) -> list[Record]:
        own = self._transport.node_id
        try:
            records = await self._directory.find(key, timeout_s=FIND_S)
        except AitorrentError:
            return []
        return [record for record in records if record.peer != own]

    def _of(self, record: Record) -> list[Endpoint]:
        try:
            port = whole(record.value, "port", 1024, 65_535)
        except AitorrentError:
            return []
        found = []
        if (view := self._transport.peer(record.peer)) and view.host:
            found.append(Endpoint(record.peer, view.host, port, is_proven=view.route == "direct"))
        for text in record.addresses:
            try:
                address = parse_address(text)
            except ValueError:
                continue
            if address.family in ("ip4", "ip6") and address.relay is None:
                found.append(Endpoint(record.peer, address.host, port, is_proven=False))
        return found

    def share(self, torrent: KnownTorrent) -> None:
        """Tell other nodes that this one shares a torrent."""
        if not self.port:
            return
        value = {
            "hash": bytes.fromhex(torrent.info_hash),
            "size": torrent.size,
            "piece": torrent.piece_length,
            "port": self.port,
        }
        keys = [f"ait:swarm:{torrent.info_hash}"]
        if torrent.sha256:
            keys.append(f"ait:file:{torrent.sha256}")
        self.withdraw(torrent.info_hash)
        while len(self._published) >= MOST:
            self.withdraw(next(iter(self._published)))
        for key in keys:
            self._directory.publish(key, value)
        self._published[torrent.info_hash] = tuple(keys)

    def withdraw(self, info_hash: str) -> None:
        """Tell other nodes that this one no longer shares a torrent."""
        for key in self._published.pop(info_hash, ()):
            self._directory.withdraw(key)

    def close(self) -> None:
        """Withdraw everything."""
        for info_hash in list(self._published):
            self.withdraw(info_hash)


def _read(value: Mapping[str, Any]) -> tuple[str, int, int] | None:
    try:
        return (
            blob(value, "hash", 20, 20).hex(),
            whole(value, "size", 1, _MAX_SIZE),
            whole(value, "piece", 16_384, _MAX_PIECE),
        )
    except AitorrentError:
        return None
