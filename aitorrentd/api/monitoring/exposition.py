"""Metrics as text: the format 0.0.4 of Prometheus, and OpenMetrics 1.0 for clients that ask for it.

Sources: prometheus.io/docs/instrumenting/exposition_formats;
github.com/prometheus/OpenMetrics, specification/OpenMetrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
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
    name = metric.family.name
    bounds = [number(float(bound)) for bound in (*metric.family.buckets, math.inf)]
    for series in metric.rows():
        labels = series.labels
        if not isinstance(series, Distribution):
            inside = f"{{{labels}}}" if labels else ""
            lines.append(f"{name}{inside} {number(series.value)}")
            continue
        before = f"{labels}," if labels else ""
        count = 0
        for bound, more in zip(bounds, series.counts, strict=True):
            count += more
            lines.append(f'{name}_bucket{{{before}le="{bound}"}} {count}')
        inside = f"{{{labels}}}" if labels else ""
        lines.append(f"{name}_sum{inside} {number(series.value)}")
        lines.append(f"{name}_count{inside} {count}")


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
