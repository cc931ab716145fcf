"""Control methods of the monitor plugin."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import CallContext, Method, PluginContext
from aitorrentd.api.monitoring.exposition import number
from aitorrentd.api.monitoring.metrics import Distribution, Metric, Series


class Model(BaseModel):
    """Base of the shapes below."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricsParams(Model):
    """Which metrics."""

    prefix: str = Field(
        "",
        max_length=128,
        description="only names that start with this, with or without aitorrent_",
    )


class SeriesView(Model):
    """One combination of label values."""

    labels: dict[str, str] = Field(description="values by label")
    value: float | None = Field(
        description="the number; of a histogram, the sum of its observations; null if not finite"
    )
    count: int | None = Field(None, description="of a histogram: number of observations")
    buckets: dict[str, int] | None = Field(
        None, description="of a histogram: observations up to each bound, cumulated"
    )


class MetricView(Model):
    """A family and its series."""

    name: str = Field(description="as in queries, such as aitorrent_generations_total")
    kind: str = Field(description="counter, gauge or histogram")
    help: str = Field(description="what it means")
    series: list[SeriesView] = Field(description="in order of appearance")


class MetricsResult(Model):
    """What the node measures."""

    metrics: list[MetricView] = Field(description="the node's own first, then those of plugins")


def monitor_methods(ctx: PluginContext) -> Iterator[Method]:
    """The methods."""

    def metrics(call: CallContext, params: MetricsParams) -> MetricsResult:
        wanted = (params.prefix, f"aitorrent_{params.prefix}")
        found = (metric for metric in ctx.metrics() if metric.family.name.startswith(wanted))
        return MetricsResult(metrics=[_view(metric) for metric in found])

    yield Method(
        "monitor.metrics",
        metrics,
        "What the node and its plugins measure.",
        MetricsParams,
        MetricsResult,
    )


def _view(metric: Metric) -> MetricView:
    family = metric.family
    return MetricView(
        name=family.name,
        kind=family.kind,
        help=family.help,
        series=[_series(metric, values, row) for values, row in metric.by_labels().items()],
    )


def _series(metric: Metric, values: tuple[str, ...], row: Series) -> SeriesView:
    family = metric.family
    labels = dict(zip(family.labels, values, strict=True))
    value = row.value if math.isfinite(row.value) else None
    if not isinstance(row, Distribution):
        return SeriesView(labels=labels, value=value)
    buckets, count = {}, 0
    for bound, more in zip((*family.buckets, float("inf")), row.counts, strict=True):
        count += more
        buckets[number(bound)] = count
    return SeriesView(labels=labels, value=value, count=count, buckets=buckets)
