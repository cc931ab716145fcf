"""What stages and coordinators of this node are measured by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aitorrent_shards.protocol.spans import Span
from aitorrentd.api.monitoring.families import counter, gauge, histogram
from aitorrentd.api.monitoring.metrics import Histogram, Metric

STAGE: Final = histogram(
    "aitorrent_stage_seconds",
    "Time in the layers here: decode steps of one token, and prefill chunks.",
    "phase",
)
HOP: Final = histogram(
    "aitorrent_hop_seconds",
    "A hop of a token between stages, without the layers: local, direct or relayed, by the slowest"
    " way from this coordinator to a stage.",
    "path",
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)
REPLAYS: Final = counter(
    "aitorrent_replays_total",
    "Stages that were replaced while an answer went on: gone, faulty, or without a link.",
    "reason",
)
SESSIONS: Final = gauge("aitorrent_stage_sessions", "Answers that layers here take part in.")
KV: Final = gauge(
    "aitorrent_kv_positions",
    "Positions of the caches here: reserved by sessions, and free as last announced.",
    "state",
)
FAMILIES: Final = (STAGE, HOP, REPLAYS, SESSIONS, KV)

_PATHS: Final = ("local", "direct", "relayed")


def path_of(routes: Iterable[str], relayed: frozenset[str] = frozenset({"relay", "turn"})) -> str:
    """The slowest of the ways to the stages; `routes` are names of routes, empty for this node."""
    ranks = (0 if not name else 2 if name in relayed else 1 for name in routes)
    return _PATHS[max(ranks, default=0)]


class ShardsMetrics:
    """The metrics of one node's shards."""

    def __init__(self) -> None:
        self._stage, self._hop, self._replays = Histogram(STAGE), Histogram(HOP), Metric(REPLAYS)
        self._decode, self._prefill = self._stage.at("decode"), self._stage.at("prefill")
        for reason in ("gone", "fault", "link"):
            self._replays.at(reason)

    def step(self, positions: int, took_us: int) -> None:
        """Layers here computed so many positions at once."""
        (self._decode if positions == 1 else self._prefill).observe(took_us / 1e6)

    def hop(self, path: str, took_us: float) -> None:
        """A token made a hop."""
        self._hop.at(path).observe(max(took_us, 0.0) / 1e6)

    def replaced(self, avoid_s: float) -> None:
        """A lost stage was replaced; `avoid_s` is how long plans avoid it."""
        reason = "fault" if math.isinf(avoid_s) else "gone" if avoid_s > 0 else "link"
        self._replays.at(reason).add()

    def read(self, reserved: Sequence[int], spans: Iterable[Span]) -> Iterator[Metric]:
        """The metrics now; `reserved` are positions of each session."""
        yield from (self._stage, self._hop, self._replays)
        yield Metric.of(SESSIONS, len(reserved))
        free = sum(span.free_positions for span in spans)
        yield Metric.of(KV, {("reserved",): sum(reserved), ("free",): free})
