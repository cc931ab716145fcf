"""Families of metrics: what each is called, what it means, and how many series it may have.

A plugin declares its families in `PluginInfo.metrics`; the values belong to a run of the plugin.
Names follow prometheus.io/docs/practices/naming: base units, and `_total` for counters.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, get_args

Kind = Literal["counter", "gauge", "histogram"]
"What the values of a family do: only grow, go up and down, or count observations by size."

OTHER: Final = "other"
"The value of every label of the series that takes what exceeds a family's limit."
MAX_SERIES: Final = 1000
"The largest `max_series` that a family may have."
PREFIX: Final = "aitorrent_"
"How the names of plugins' families begin."
LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"Buckets for durations within a request."
ANSWER_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"Buckets for whole answers."

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_RESERVED: Final = ("_bucket", "_sum", "_count", "_created")


@dataclass(frozen=True, slots=True)
class Family:
    """A declared family."""

    kind: Kind
    name: str
    "As in queries: `aitorrent_generations_total`."
    help: str
    "One sentence for people."
    labels: tuple[str, ...] = ()
    unit: str = ""
    "The base unit in the name, such as `seconds` or `bytes`."
    buckets: tuple[float, ...] = ()
    "Upper bounds of a histogram's buckets, ascending, without infinity."
    max_series: int = 64
    "More label values than that are counted as `other`."

    @property
    def base(self) -> str:
        """The name without `_total`, by which OpenMetrics knows a counter."""
        return self.name.removesuffix("_total") if self.kind == "counter" else self.name


def counter(name: str, text: str, *labels: str, unit: str = "", max_series: int = 64) -> Family:
    """Declare a counter; its name ends with `_total`."""
    return Family("counter", name, text, labels, unit, max_series=max_series)


def gauge(name: str, text: str, *labels: str, unit: str = "", max_series: int = 64) -> Family:
    """Declare a gauge."""
    return Family("gauge", name, text, labels, unit, max_series=max_series)


def histogram(
    name: str,
    text: str,
    *labels: str,
    buckets: tuple[float, ...] = LATENCY_S,
    unit: str = "seconds",
    max_series: int = 64,
) -> Family:
    """Declare a histogram, of durations unless `unit` says otherwise."""
    return Family("histogram", name, text, labels, unit, buckets, max_series)


def problem_of(family: Family) -> str:
    """What is wrong with a declaration; empty if nothing is."""
    name = family.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"metric name {name!r} is not of the form a_b_c"
    if problem := _problem_of_name(family) or _problem_of_values(family):
        return f"metric {name} {problem}"
    return ""


def _problem_of_name(family: Family) -> str:
    if family.kind not in get_args(Kind):
        return f"is not one of {', '.join(get_args(Kind))}"
    if family.name.endswith(_RESERVED):
        return "has a suffix that Prometheus reserves"
    if (family.kind == "counter") != family.name.endswith("_total"):
        return "must end with _total if it is a counter, and only then"
    if family.unit and not family.base.endswith(f"_{family.unit}"):
        return f"does not end with its unit {family.unit}"
    if not isinstance(family.help, str) or not family.help.strip():
        return "has no help text"
    return ""


def _problem_of_values(family: Family) -> str:
    if not all(isinstance(label, str) and _NAME.fullmatch(label) for label in family.labels):
        return "has a label that is not of the form a_b"
    if len({*family.labels, "le"}) <= len(family.labels):
        return "has a label twice, or one that is called le"
    if (family.kind == "histogram") != bool(family.buckets):
        return "must have buckets if it is a histogram, and only then"
    if not all(map(math.isfinite, family.buckets)):
        return "has a bucket that is not finite"
    if not all(a < b for a, b in pairwise(family.buckets)):
        return "has buckets that do not ascend"
    if not 1 <= family.max_series <= MAX_SERIES:
        return f"has a max_series that is not from 1 to {MAX_SERIES}"
    return ""
