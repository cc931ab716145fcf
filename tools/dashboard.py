"""The Grafana dashboard, from the same families as the reference page of metrics.

`python -m tools.reference` writes it. Every family gets a panel: counters as rates, histograms as
quantiles; what matters most is on top.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from aitorrentd.api.monitoring.families import Family
from tools.metrics_page import families

FILE: Final = Path(__file__).parents[1] / "plugins/aitorrent_monitor/shipped/grafana.json"
_ONLY: Final = 'job=~"$job",instance=~"$instance"'
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
_HEIGHT: Final = 7
_HIDDEN: Final = frozenset({"aitorrent_build_info", "process_start_time_seconds"})
"What is no use as a curve."

_TOP: Final = (
    ("Nodes up", f"sum(up{{{_ONLY}}})", "short"),
    (
        "Tokens per second",
        f"sum(rate(aitorrent_completion_tokens_total{{{_ONLY}}}[$__rate_interval]))",
        "short",
    ),
    ("Answers running", f"sum(aitorrent_generations_running{{{_ONLY}}})", "short"),
    (
        "Answers that failed",
        f'sum(rate(aitorrent_generations_total{{{_ONLY},reason="error"}}[$__rate_interval]))'
        f' / sum(rate(aitorrent_generations_total{{{_ONLY},reason!="busy"}}[$__rate_interval]))',
        "percentunit",
    ),
    (
        "First token, p95",
        "histogram_quantile(0.95, sum by (le)"
        f" (rate(aitorrent_time_to_first_token_seconds_bucket{{{_ONLY}}}[$__rate_interval])))",
        "s",
    ),
    ("Peers", f"sum(aitorrent_peers{{{_ONLY}}})", "short"),
)


def text() -> str:
    """The dashboard as JSON."""
    return json.dumps(dashboard(), indent=1) + "\n"


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    panels: list[dict[str, Any]] = []
    width = _WIDTH // len(_TOP)
    for i, (title, expr, unit) in enumerate(_TOP):
        place = {"x": i * width, "y": 0, "w": width, "h": 4}
        panels.append(_panel("stat", title, "", [(expr, "")], unit, place))
    y = 4
    for who, listed in families().items():
        panels.append(
            {
                "type": "row",
                "title": "Node" if who == "node" else who.capitalize(),
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            }
        )
        y += 1
        shown = [family for family in listed if family.name not in _HIDDEN]
        for i, family in enumerate(shown):
            place = {"x": i % 3 * 8, "y": y + i // 3 * _HEIGHT, "w": 8, "h": _HEIGHT}
            title = family.base.removeprefix("aitorrent_").replace("_", " ")
            queries, unit = _queries(family)
            panels.append(_panel("timeseries", title, family.help, queries, unit, place))
        y += -(-len(shown) // 3) * _HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "aitorrentd",
        "uid": "aitorrentd",
        "description": "Nodes of aitorrentd; made from the table of their metrics.",
        "tags": ["aitorrentd"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _variable("job"), _variable("instance")]},
        "panels": panels,
    }


def _queries(family: Family) -> tuple[list[tuple[str, str]], str]:
    """(expression, legend) of a family's curves, and their unit."""
    legend = " ".join(f"{{{{{label}}}}}" for label in family.labels)
    units = {"seconds": "s", "bytes": "bytes"}
    by = ", ".join(family.labels)
    if family.kind == "gauge":
        expr = f"sum by (instance{', ' if by else ''}{by}) ({family.name}{{{_ONLY}}})"
        return [(expr, f"{{{{instance}}}} {legend}".strip())], units.get(family.unit, "short")
    if family.kind == "counter":
        grouped = f" by ({by}) " if by else ""
        expr = f"sum{grouped}(rate({family.name}{{{_ONLY}}}[$__rate_interval]))"
        per_second = {"bytes": "Bps", "seconds": "percentunit"}
        return [(expr, legend or family.base)], per_second.get(family.unit, "cps")
    buckets = f"rate({family.name}_bucket{{{_ONLY}}}[$__rate_interval])"
    inner = f"sum by (le{', ' if by else ''}{by}) ({buckets})"
    found = [
        (f"histogram_quantile({q}, {inner})", f"p{q * 100:.0f} {legend}".strip())
        for q in (0.5, 0.95)
    ]
    return found, units.get(family.unit, "short")


def _panel(
    kind: str,
    title: str,
    description: str,
    queries: list[tuple[str, str]],
    unit: str,
    place: dict[str, int],
) -> dict[str, Any]:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + i),
                "datasource": _SOURCE,
                "expr": expr,
                "legendFormat": legend,
            }
            for i, (expr, legend) in enumerate(queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Source", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    chosen = "" if label == "job" else '{job=~"$job"}'
    return {
        "type": "query",
        "name": label,
        "label": label.capitalize(),
        "datasource": _SOURCE,
        "query": f"label_values(aitorrent_build_info{chosen}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
