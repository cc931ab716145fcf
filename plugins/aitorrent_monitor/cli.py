"""`aitorrentctl metrics`: what the node measures, and files for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aitorrentd.cli import toolkit

COMMANDS = {"metrics": "Show what the node measures"}
SHIPPED: Final = Path(__file__).with_name("shipped")
DASHBOARD: Final = SHIPPED / "grafana.json"
ALERTS: Final = SHIPPED / "alerts.yaml"
_HELP: Final = (
    "Show what the node measures.\n\nPrometheus reads the same from /metrics. Of a histogram, the"
    " number of observations and their mean are shown."
)


def register(app: typer.Typer) -> None:
    """Add the command to `aitorrentctl`."""
    examples = ("metrics", "metrics http", "metrics --dashboard")
    app.command("metrics", help=_HELP, epilog=toolkit.examples(*examples))(metrics)


def metrics(
    prefix: Annotated[str, typer.Argument(help="Only names that start with this.")] = "",
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Print a dashboard to import into Grafana.")
    ] = False,
    alerts: Annotated[
        bool, typer.Option("--alerts", help="Print alerting rules for Prometheus.")
    ] = False,
) -> None:
    """Show metrics."""
    if dashboard or alerts:
        typer.echo((DASHBOARD if dashboard else ALERTS).read_text(encoding="utf-8"), nl=False)
        return
    with toolkit.connect() as client:
        reply = client.call("monitor.metrics", {"prefix": prefix})
    toolkit.emit(reply, lambda shown: _text(shown, prefix))


def _text(reply: Mapping[str, Any], prefix: str) -> str:
    rows = [
        {"name": metric["name"] + _labels(series["labels"]), "value": _value(metric, series)}
        for metric in reply["metrics"]
        for series in metric["series"]
    ]
    if not rows:
        return f"no metric starts with {prefix!r}"
    return toolkit.table(rows, [("name", "METRIC"), ("value", "VALUE")])


def _labels(labels: Mapping[str, str]) -> str:
    inside = ", ".join(f"{name}={value}" for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _value(metric: Mapping[str, Any], series: Mapping[str, Any]) -> str:
    value, count = series["value"], series["count"]
    if value is None:
        return "no number"
    if count is None:
        return f"{value:.6g}" if value != int(value) else f"{value:.0f}"
    unit = " s" if metric["name"].endswith("_seconds") else ""
    return f"{count}, mean {value / count:.3g}{unit}" if count else "0"
