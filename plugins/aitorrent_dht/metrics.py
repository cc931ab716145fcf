"""What the DHT measures; the same figures as `dht.stats`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric

if TYPE_CHECKING:
    from aitorrent_dht.service import DhtService

NODES: Final = gauge("aitorrent_dht_nodes", "Verified nodes in the routing table.")
SIZE: Final = gauge("aitorrent_dht_network_nodes", "Estimated number of nodes in the DHT.")
RECORDS: Final = gauge("aitorrent_dht_records", "Records that are stored for other nodes.")
PUBLISHED: Final = gauge("aitorrent_dht_published_records", "Records that this node publishes.")
LOOKUPS: Final = counter("aitorrent_dht_lookups_total", "Lookups that this node began.")
REQUESTS: Final = counter("aitorrent_dht_requests_total", "Requests to other nodes.")
TIMEOUTS: Final = counter("aitorrent_dht_timeouts_total", "Requests without a timely reply.")
SERVED: Final = counter("aitorrent_dht_served_total", "Requests of other nodes that were answered.")
BYTES: Final = counter("aitorrent_dht_bytes_total", "UDP payload.", "direction", unit="bytes")
DROPPED: Final = counter("aitorrent_dht_dropped_total", "Datagrams that were ignored.", "reason")
FAMILIES: Final = (
    NODES,
    SIZE,
    RECORDS,
    PUBLISHED,
    LOOKUPS,
    REQUESTS,
    TIMEOUTS,
    SERVED,
    BYTES,
    DROPPED,
)


def read(service: DhtService) -> Iterator[Metric]:
    """The metrics now."""
    state, endpoint = service.node.state, service.endpoint
    yield Metric.of(NODES, len(state.table))
    yield Metric.of(SIZE, round(state.network_size()))
    yield Metric.of(RECORDS, len(state.store))
    yield Metric.of(PUBLISHED, len(service.node.publishing))
    yield Metric.of(LOOKUPS, state.counts["lookups"])
    yield Metric.of(REQUESTS, state.counts["requests"])
    yield Metric.of(TIMEOUTS, state.counts["timeouts"])
    yield Metric.of(SERVED, state.counts["served"])
    yield Metric.of(BYTES, {("in",): endpoint.bytes_in, ("out",): endpoint.bytes_out})
    yield Metric.of(DROPPED, {(reason,): n for reason, n in service.gate.dropped.items()})
