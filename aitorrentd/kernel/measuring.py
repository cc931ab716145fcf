"""What the kernel measures: the states of its plugins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from aitorrentd.api.monitoring.families import counter, gauge
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.kernel.states import PluginRow

STATE: Final = gauge(
    "aitorrent_plugin_state",
    "1 for the state that each plugin is in.",
    "plugin",
    "state",
    max_series=256,
)
RESTARTS: Final = counter(
    "aitorrent_plugin_restarts_total",
    "Restarts of a plugin after a failure.",
    "plugin",
    max_series=256,
)
UNREADABLE: Final = gauge(
    "aitorrent_plugin_metrics_unreadable",
    "1 if the metrics of a plugin could not be read by this scrape.",
    "plugin",
    max_series=256,
)
DRAINING: Final = gauge(
    "aitorrent_draining", "1 while the node drains: it ends its work and takes no more."
)
FAMILIES: Final = (STATE, RESTARTS, UNREADABLE, DRAINING)


def read(
    rows: Sequence[PluginRow],
    measured: Sequence[tuple[str, list[Metric] | None]],
    *,
    draining: bool,
) -> Iterator[Metric]:
    """The metrics now. `measured` has each plugin that measures something, and what it measured;
    None if that failed."""
    yield Metric.of(STATE, {(row.name, row.state): 1 for row in rows})
    yield Metric.of(RESTARTS, {(row.name,): row.restarts for row in rows})
    yield Metric.of(UNREADABLE, {(name,): int(found is None) for name, found in measured})
    yield Metric.of(DRAINING, int(draining))
