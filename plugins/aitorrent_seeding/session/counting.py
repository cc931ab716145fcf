"""What libtorrent says of the connections of a torrent."""

from __future__ import annotations

from typing import Any, Final

import libtorrent as lt

from aitorrent_seeding.session.links import Links, PeerCounts, Sample, Totals
from aitorrent_seeding.session.names import Names

MASK: Final = int(lt.alert_category.connect | lt.alert_category.peer)
PEERS: Final = (lt.peer_connect_alert, lt.peer_disconnected_alert, lt.peer_ban_alert)
MEETINGS: Final = (lt.peer_connect_alert, lt.incoming_connection_alert)
_BLOCK: Final = 16_384
_SOCKET: Final = (lt.operation_t.sock_read, lt.operation_t.sock_write)


def hear(links: Links, alert: Any, names: Names, now: float) -> None:
    """Tell `links` what one of `PEERS` says."""
    place = (str(alert.ip[0]), int(alert.ip[1]))
    if isinstance(alert, lt.peer_connect_alert):
        links.connected(place, names.possible(now), now)
    elif isinstance(alert, lt.peer_ban_alert):
        links.banned(place, alert.pid.to_bytes())
    else:
        text = str(alert.error.message()).lower()
        if "corrupt" in text:  # also of a peer that was banned, and dialled again
            links.banned(place, alert.pid.to_bytes())
        links.ended(
            place,
            alert.pid.to_bytes(),
            now,
            left=alert.op in _SOCKET or "timed out" in text,
            refused=alert.op == lt.operation_t.connect and "refused" in text,
        )


def sample(handle: Any) -> Sample:
    """Ask libtorrent, which takes a moment.

    Raises:
        RuntimeError: the torrent was removed.
    """
    before = _totals(handle)
    peers = tuple(
        PeerCounts(
            (str(peer.ip[0]), int(peer.ip[1])),
            peer.pid.to_bytes(),
            peer.total_download,
            peer.total_upload,
            peer.download_queue_length * _BLOCK,
        )
        for peer in handle.get_peer_info()
        if peer.connection_type == lt.peer_info.standard_bittorrent
    )
    return Sample(peers, before, _totals(handle))


def _totals(handle: Any) -> Totals:
    status = handle.status(0)
    return Totals(
        status.total_payload_download, status.total_payload_upload, status.total_failed_bytes
    )
