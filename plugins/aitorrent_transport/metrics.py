"""What the transport measures: peers, connections, and the bytes of streams by protocol."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric

if TYPE_CHECKING:
    from aitorrent_transport.service import TransportService

PEERS: Final = gauge(
    "aitorrent_peers", "Peers: connected directly, relayed, or not yet greeted.", "state"
)
BYTES: Final = counter(
    "aitorrent_peer_bytes_total",
    "Payload of streams with peers, by protocol.",
    "direction",
    "protocol",
    unit="bytes",
    max_series=128,
)
INBOUND: Final = counter(
    "aitorrent_peer_connections_total",
    "Incoming connections: accepted, refused unread, or failed in the handshake.",
    "outcome",
)
FAMILIES: Final = (PEERS, BYTES, INBOUND)


def read(service: TransportService) -> Iterator[Metric]:
    """The metrics now."""
    table = service.table
    relayed = sum(peer.is_relayed for peer in table if peer.channels)
    states = {"direct": len(table) - relayed, "relayed": relayed, "pending": table.pending}
    yield Metric.of(PEERS, {(state,): count for state, count in states.items()})
    bytes_in, bytes_out = table.traffic.totals(
        state for peer in table for channel in peer.channels for state in channel.mux.states()
    )
    moved: dict[tuple[str, ...], float] = {("in", name): size for name, size in bytes_in.items()}
    moved |= {("out", name): size for name, size in bytes_out.items()}
    yield Metric.of(BYTES, moved)
    counts = service.listener.statistics()
    outcomes = ("accepted", "refused", "failed")
    yield Metric.of(INBOUND, {(outcome,): counts[outcome] for outcome in outcomes})
