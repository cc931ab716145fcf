"""Metrics as text: the format 0.0.4 of Prometheus, and OpenMetrics 1.0 for clients that ask for it.

Sources: prometheus.io/docs/instrumenting/exposition_formats;
github.com/prometheus/OpenMetrics, specification/OpenMetrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Final

from aitorrentd.api.monitoring.metrics import Distribution, Metric

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
"Media type of the text format."
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"Media type of OpenMetrics."
_OPEN: Final = "application/openmetrics-text"


def wants_open_metrics(accept: str) -> bool:
    """Whether a client prefers OpenMetrics, by its Accept header (RFC 9110, section 12.5.1)."""
    best = {_OPEN: 0.0, "text/plain": 0.0}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        given = dict(p.partition("=")[::2] for p in parameters)
        is_known = given.get("version", "1.0.0") in ("0.0.1", "1.0.0") or kind != _OPEN
        if kind in best and is_known:
            best[kind] = max(best[kind], _quality(given.get("q", "1")))
    return best[_OPEN] > 0 and best[_OPEN] >= best["text/plain"]


def _quality(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 1 else 0.0


def text_of(metrics: Iterable[Metric], *, open_metrics: bool = False) -> str:
    """The metrics in either format. Of two metrics with one name, only the first is shown:
    Prometheus would discard the whole page."""
    lines: list[str] = []
    seen: set[str] = set()
    for metric in metrics:
        family = metric.family
        if family.base in seen:
            continue
        seen.add(family.base)
        name = family.base if open_metrics else family.name
        lines.append(f"# HELP {name} {_help(family.help, open_metrics=open_metrics)}")
        lines.append(f"# TYPE {name} {family.kind}")
        if open_metrics and family.unit:
            lines.append(f"# UNIT {name} {family.unit}")
        _add(lines, metric)
    if open_metrics:
        lines.append("# EOF")
    lines.append("")
    return "\n".join(lines)


def _add(lines: list[str], metric: Metric) -> None:
    name, bounds = metric.family.name, metric.family.buckets
    for series in metric.rows():
        if not isinstance(series, Distribution):
            lines.append(_start(name, series.labels) + number(series.value))
            continue
        starts, total, count = _starts(name, series.labels, bounds)
        counts = list(accumulate(series.counts))
        lines += [f"{start}{n}" for start, n in zip(starts, counts, strict=True)]
        lines += (total + number(series.value), f"{count}{counts[-1]}")


@lru_cache(1024)
def _start(name: str, labels: str) -> str:
    """The line of a series up to its value."""
    return f"{name}{{{labels}}} " if labels else f"{name} "


@lru_cache(256)
def _starts(name: str, labels: str, bounds: tuple[float, ...]) -> tuple[tuple[str, ...], str, str]:
    """The lines of a histogram up to their values: its buckets, the sum, and the count."""
    before = f"{labels}," if labels else ""
    shown = (number(float(bound)) for bound in (*bounds, math.inf))
    buckets = tuple(f'{name}_bucket{{{before}le="{bound}"}} ' for bound in shown)
    return buckets, _start(f"{name}_sum", labels), _start(f"{name}_count", labels)


def number(value: float) -> str:
    """A value as both formats write it."""
    if isinstance(value, int):
        return str(int(value))  # True is 1
    if math.isfinite(value):
        return repr(value)
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value > 0 else "-Inf"


def _help(text: str, *, open_metrics: bool) -> str:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if open_metrics else escaped
