"""Tells who sent how much of a file, and who named a wrong one."""

from __future__ import annotations

from typing import Protocol

from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.store import Held
from aitorrent_seeding.session.torrent import Torrent
from aitorrent_seeding.torrents.metainfo import Metainfo
from aitorrentd.api import PeerId, TransferFailed, TransferSucceeded


class Credited(Protocol):
    """A torrent whose senders are known."""

    meta: Metainfo
    torrent: Torrent
    peers_of: dict[PeerId, set[tuple[str, int]]]

    @property
    def held(self) -> Held:
        """What is saved of it."""


async def credit(means: Means, entry: Credited) -> None:
    """Tell who sent how much; nodes are known by the host of their channel."""
    if entry.torrent.has_left:
        return
    by_place: dict[tuple[str, int], int] = {}
    for peer in await means.engine.peers(entry.torrent):
        by_place[peer.ip] = by_place.get(peer.ip, 0) + int(peer.total_download)
    for node, places in entry.peers_of.items():
        if sent := sum(by_place.get(place, 0) for place in places):
            means.ctx.publish(TransferSucceeded(node, entry.held.sha256, sent))


def blame(means: Means, entry: Credited) -> None:
    """Tell who named a torrent that is not its file."""
    for peer in entry.peers_of:
        means.ctx.publish(
            TransferFailed(peer, entry.held.sha256, entry.meta.size, "named another file")
        )
