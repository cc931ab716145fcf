"""Which share of a limited upload rate each peer gets: libtorrent's slots, as `slots` counts them.

libtorrent keeps one of its slots for peers by turns, every 30 s. While this node only seeds, that
slot would double the peers that are served, so turns are not taken. It is free for a peer that
comes, which need not wait; a moment later, only the usual number is served again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session.slots import EVERY_S, Crowd, Slots, Standing
from aitorrent_seeding.session.torrent import Torrent

_NEVER_S: Final = 10**8
_TURNS: Final = 1
"Slots that libtorrent keeps for turns, and that stay free."
_EXCHANGE: Final = 2
"More while something is fetched: peers send to those that send to them, and must begin somehow."
_OF_A_SEEDER_S: Final = 1
_OF_A_FETCHER_S: Final = 5
"Seconds after which libtorrent chooses anew whom to serve."


def at_start(upload_bps: int) -> dict[str, Any]:
    """Settings of a session with this limit; 0 = none."""
    if not upload_bps:
        return {}
    return {
        "optimistic_unchoke_interval": _NEVER_S,
        "num_optimistic_unchoke_slots": _TURNS,
        **_settings(Slots().count, exchanges=False),
    }


def _settings(count: int, *, exchanges: bool) -> dict[str, Any]:
    return {
        "unchoke_slots_limit": count + _TURNS + (_EXCHANGE if exchanges else 0),
        "unchoke_interval": _OF_A_FETCHER_S if exchanges else _OF_A_SEEDER_S,
    }


class Serving:
    """Serves as few peers of a session at once as use its upload limit up."""

    def __init__(self, torrents: Mapping[Any, Torrent]) -> None:
        self._torrents = torrents
        self.limit_bps = 0
        "0 = none."
        self._sent = 0
        "Payload since the last look."

    def sent(self, count: int) -> None:
        """So many bytes of payload went to peers."""
        self._sent += count

    async def settings(self) -> AsyncIterator[dict[str, Any]]:
        """The settings of the session whenever they change; none without a limit."""
        if not self.limit_bps:
            return
        slots, exchanges = Slots(), False
        loop = asyncio.get_running_loop()
        looked_at = loop.time()
        while True:
            await asyncio.sleep(EVERY_S)
            there = list(self._torrents.values())
            crowd: Crowd = {}
            for torrent in there:
                if torrent.is_whole and torrent.counts.served:
                    crowd.update(await asyncio.to_thread(standings, torrent.handle))
            before, exchanges = exchanges, any(t.counts.peers and not t.is_whole for t in there)
            now = loop.time()
            sent_bps, looked_at, self._sent = self._sent / (now - looked_at), now, 0
            served = sum(torrent.counts.served for torrent in there)
            has_changed = slots.look(
                limit_bps=self.limit_bps, sent_bps=sent_bps, served=served, crowd=crowd
            )
            if has_changed or exchanges != before:
                yield _settings(slots.count, exchanges=exchanges)


def standings(handle: Any) -> Crowd:
    """The peers of a torrent that want pieces; asks libtorrent, which takes a moment."""
    with suppress(RuntimeError):  # it was removed
        return dict(_standings(handle))
    return {}


def _standings(handle: Any) -> Iterable[tuple[object, Standing]]:
    for peer in handle.get_peer_info():
        if peer.flags & lt.peer_info.remote_interested:
            is_served = not peer.flags & lt.peer_info.choked
            yield (handle, *peer.ip), Standing(peer.num_pieces, is_served)
