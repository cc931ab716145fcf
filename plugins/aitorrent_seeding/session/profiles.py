"""Settings of libtorrent's session, as measured.

Its defaults reach 12 MiB/s from one peer on loopback, because they choose uTP and hash on one
thread; with these a peer gives 490. Larger queues cost memory and make it slower. No host that the
user did not name is contacted: the DHT of BitTorrent, local discovery and port mapping are off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, Literal

from aitorrentd.api.network.addresses import host_port

Profile = Literal["lan", "wan"]

_MIB: Final = 2**20
_COMMON: Final[dict[str, Any]] = {
    "enable_outgoing_utp": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,
    "file_pool_size": 200,
    "active_seeds": -1,
    "active_downloads": -1,
    "active_limit": -1,
    "active_checking": 1,
    "auto_manage_startup": 0,
    "peer_timeout": 60,
    "announce_to_all_tiers": True,
    "piece_extent_affinity": True,
    # Until it has so many pieces, libtorrent asks for any, whatever their priority.
    "initial_picker_threshold": 0,
    "validate_https_trackers": True,
    "ssrf_mitigation": True,
    "no_connect_privileged_ports": True,
    "smooth_connects": False,
    "close_redundant_connections": False,
    "inactivity_timeout": 120,
    "min_reconnect_time": 5,
    "torrent_connect_boost": 50,
    "tick_interval": 100,
    "alert_queue_size": 20_000,
    "max_metadata_size": 64 * _MIB,
    "max_piece_count": 2_000_000,
    # Pieces are large: what a peer may have out of turn would be most of a file.
    "allowed_fast_set_size": 0,
    "unchoke_interval": 5,
    "seeding_piece_quota": 4,
    "anonymous_mode": False,
    "user_agent": "aitorrentd",
    "listen_system_port_fallback": False,
    "max_retry_port_bind": 10,
    "stop_tracker_timeout": 1,
}
_OF: Final[dict[Profile, dict[str, Any]]] = {
    "lan": {
        "enable_incoming_utp": False,
        "unchoke_slots_limit": -1,
        "send_buffer_watermark": 2 * _MIB,
    },
    "wan": {
        "enable_incoming_utp": True,
        "unchoke_slots_limit": 20,
        "send_buffer_watermark": 6 * _MIB,
    },
}


def settings(
    profile: Profile,
    *,
    listen: Sequence[str],
    port: int,
    connections: int,
    upload_bps: int,
    download_bps: int,
    dht: bool,
    alert_mask: int,
    cpus: int = os.cpu_count() or 1,
) -> dict[str, Any]:
    """A settings pack; rates are in bytes per second, 0 = unlimited."""
    return {
        **_COMMON,
        **_OF[profile],
        "hashing_threads": max(2, min(4, cpus)),
        "aio_threads": max(4, min(8, cpus)),
        "listen_interfaces": ",".join(host_port(host, port) for host in listen),
        "connections_limit": connections,
        "upload_rate_limit": upload_bps,
        "download_rate_limit": download_bps,
        "enable_dht": dht,
        "alert_mask": alert_mask,
    }
