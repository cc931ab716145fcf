"""What the seeding plugin measures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric

BYTES: Final = counter(
    "aitorrent_swarm_bytes_total",
    "Payload exchanged with BitTorrent peers.",
    "direction",
    unit="bytes",
)
TORRENTS: Final = gauge("aitorrent_torrents", "Torrents of this node.", "state")
FAMILIES: Final = (BYTES, TORRENTS)


class HasState(Protocol):
    """A torrent."""

    @property
    def state(self) -> str:
        """As `seed list` shows it."""


class SwarmMetrics:
    """The metrics of one run of the plugin."""

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0

    def moved(self, received: int, sent: int) -> None:
        """More payload was exchanged."""
        self.bytes_in += received
        self.bytes_out += sent

    def read(self, torrents: Iterable[HasState]) -> Iterator[Metric]:
        """The metrics now."""
        yield Metric.of(BYTES, {("in",): self.bytes_in, ("out",): self.bytes_out})
        states = Counter(torrent.state for torrent in torrents)
        yield Metric.of(TORRENTS, {(state,): count for state, count in states.items()})
