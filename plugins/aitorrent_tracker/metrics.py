"""What a tracker measures; the same figures as `tracker.stats`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric

if TYPE_CHECKING:
    from aitorrent_tracker.service import TrackerService

SWARMS: Final = gauge("aitorrent_tracker_swarms", "Torrents with peers at this tracker.")
PEERS: Final = gauge("aitorrent_tracker_peers", "Peers of those torrents.", "state")
COMPLETED: Final = counter("aitorrent_tracker_completed_total", "Downloads that were completed.")
EVENTS: Final = counter(
    "aitorrent_tracker_events_total",
    "Announces, scrapes and refusals, as tracker stats names them.",
    "event",
)
CONNECTIONS: Final = gauge("aitorrent_tracker_connections", "Open TCP connections.")
FAMILIES: Final = (SWARMS, PEERS, COMPLETED, EVENTS, CONNECTIONS)


def read(service: TrackerService) -> Iterator[Metric]:
    """The metrics now."""
    kept = service.tracker.storage.statistics()
    yield Metric.of(SWARMS, kept.swarms)
    yield Metric.of(PEERS, {("seeding",): kept.seeds, ("downloading",): kept.leechers})
    yield Metric.of(COMPLETED, kept.completed)
    yield Metric.of(EVENTS, {(name,): count for name, count in service.tracker.counts.items()})
    yield Metric.of(CONNECTIONS, len(service.http))
