"""Metrics and their text: names, escaping, numbers, limits."""

from __future__ import annotations

import math
import shutil
import subprocess
from typing import Any, cast

import pytest

from aitorrentd.api.monitoring.exposition import number, text_of, wants_open_metrics
from aitorrentd.api.monitoring.families import Family, counter, gauge, histogram, problem_of
from aitorrentd.api.monitoring.metrics import Histogram, Metric

HITS = counter("aitorrent_hits_total", "Hits.", "route", "code")
BYTES = counter("aitorrent_peer_bytes_total", "Bytes.", unit="bytes")
LEVEL = gauge("aitorrent_level", "A level.")
WAIT = histogram("aitorrent_wait_seconds", "Waits.", "kind", buckets=(0.1, 1.0))


def lines(metric: Metric, *, open_metrics: bool = False) -> list[str]:
    return text_of([metric], open_metrics=open_metrics).splitlines()


def test_text_of_each_kind() -> None:
    hits, wait = Metric(HITS), Histogram(WAIT)
    hits.at("/a", "200").add()
    hits.at("/a", "200").add(2)
    wait.at("x").observe(0.1)  # a bound belongs to its bucket
    wait.at("x").observe(0.5, times=2)
    wait.at("x").observe(7)
    assert lines(hits) == [
        "# HELP aitorrent_hits_total Hits.",
        "# TYPE aitorrent_hits_total counter",
        'aitorrent_hits_total{route="/a",code="200"} 3',
    ]
    assert lines(wait)[2:] == [
        'aitorrent_wait_seconds_bucket{kind="x",le="0.1"} 1',
        'aitorrent_wait_seconds_bucket{kind="x",le="1.0"} 3',
        'aitorrent_wait_seconds_bucket{kind="x",le="+Inf"} 4',
        'aitorrent_wait_seconds_sum{kind="x"} 8.1',
        'aitorrent_wait_seconds_count{kind="x"} 4',
    ]
    assert text_of([hits]).endswith("3\n")


def test_open_metrics_names_counters_without_total_and_ends_with_eof() -> None:
    assert lines(Metric.of(BYTES, 5), open_metrics=True) == [
        "# HELP aitorrent_peer_bytes Bytes.",
        "# TYPE aitorrent_peer_bytes counter",
        "# UNIT aitorrent_peer_bytes bytes",
        "aitorrent_peer_bytes_total 5",
        "# EOF",
    ]


def test_without_labels_a_metric_begins_with_zero_and_with_labels_empty() -> None:
    """A counter that appears with its first event has no rate for that event."""
    assert lines(Metric(BYTES))[2:] == ["aitorrent_peer_bytes_total 0"]
    assert lines(Metric(HITS))[2:] == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('say "hi"', r"say \"hi\""),
        ("a\\b", r"a\\b"),
        ("two\nlines", r"two\nlines"),
        ("\\n", r"\\n"),
        ("tab\tstays", "tab\tstays"),
        ("café 模型", "café 模型"),
        ("half \ud83d", "half ?"),
        ('"} 1\nfake_total 9', r"\"} 1\nfake_total 9"),
        ("x" * 500, "x" * 128),
        ("", ""),
    ],
)
def test_label_values_are_escaped(value: str, shown: str) -> None:
    """client_python#118, client_golang#184: a quote or newline in a value broke the whole page."""
    metric = Metric(HITS)
    metric.at(value, "200").add()
    assert lines(metric)[2:] == [f'aitorrent_hits_total{{route="{shown}",code="200"}} 1']
    text_of([metric]).encode()


def test_help_escapes_what_its_format_escapes() -> None:
    odd = gauge("aitorrent_level", 'A "level"\nof \\ things.')
    assert lines(Metric.of(odd, 1))[0] == '# HELP aitorrent_level A "level"\\nof \\\\ things.'
    shown = lines(Metric.of(odd, 1), open_metrics=True)[0]
    assert shown == '# HELP aitorrent_level A \\"level\\"\\nof \\\\ things.'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        (2**63, "9223372036854775808"),
        (True, "1"),
        (0.1, "0.1"),
        (1e21, "1e+21"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (-0.0, "-0.0"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    """Python's own `nan`, `inf` and `True` are no numbers to Prometheus."""
    assert number(value) == shown


def test_one_nan_does_not_spoil_a_sum_for_good() -> None:
    wait = Histogram(WAIT)
    for value in (math.nan, math.inf, -math.inf, 1.0):
        wait.at("x").observe(value)
    assert lines(wait)[-2:] == [
        'aitorrent_wait_seconds_sum{kind="x"} 1.0',
        'aitorrent_wait_seconds_count{kind="x"} 1',
    ]


@pytest.mark.parametrize("amount", [-1, math.nan, -math.inf])
def test_counters_do_not_go_down(amount: float) -> None:
    """A counter that falls looks like a restart, and `rate` counts all of it again."""
    hits = Metric(HITS)
    hits.at("/", "200").add(5)
    hits.at("/", "200").add(amount)
    assert hits.at("/", "200").value == 5


def test_series_beyond_the_limit_are_counted_together() -> None:
    few = counter("aitorrent_few_total", "Few.", "name", max_series=4)
    metric = Metric(few)
    for i in range(10_000):
        metric.at(f"name {i}").add()
    assert lines(metric)[2:] == [
        'aitorrent_few_total{name="name 0"} 1',
        'aitorrent_few_total{name="name 1"} 1',
        'aitorrent_few_total{name="name 2"} 1',
        'aitorrent_few_total{name="other"} 9997',
    ]
    read = Metric.of(few, {(f"n{i}",): 1 for i in range(10)})
    assert lines(read)[-1] == 'aitorrent_few_total{name="other"} 7'


def test_of_two_metrics_with_one_name_the_first_is_shown() -> None:
    """Prometheus refuses a page with a repeated series, and with it everything else."""
    text = text_of([Metric.of(LEVEL, 1), Metric.of(LEVEL, 2)])
    assert text.splitlines()[2:] == ["aitorrent_level 1"]


def test_wrong_number_of_labels_is_told() -> None:
    with pytest.raises(ValueError, match=r"has the labels \('route', 'code'\), not 1"):
        Metric(HITS).at("/")


@pytest.mark.parametrize(
    ("accept", "is_open"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        (
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;"
            "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",  # Prometheus 2.42
            True,
        ),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
            "encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;"
            "escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",  # Prometheus 3
            True,
        ),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=x,;;=,", False),
    ],
)
def test_accept(accept: str, is_open: bool) -> None:
    assert wants_open_metrics(accept) is is_open


@pytest.mark.parametrize(
    ("family", "problem"),
    [
        (HITS, ""),
        (BYTES, ""),
        (WAIT, ""),
        (Family("counter", "aitorrent_hits", "Hits."), "must end with _total"),
        (Family("gauge", "aitorrent_level_total", "Level."), "must end with _total"),
        (gauge("aitorrent_Level", "Level."), "not of the form a_b_c"),
        (gauge("aitorrent-level", "Level."), "not of the form a_b_c"),
        (gauge("aitorrent_level_count", "Level."), "a suffix that Prometheus reserves"),
        (gauge("aitorrent_level", "Level.", unit="bytes"), "does not end with its unit bytes"),
        (gauge("aitorrent_level", " "), "has no help text"),
        (gauge("aitorrent_level", "Level.", "a", "a"), "has a label twice"),
        (gauge("aitorrent_level", "Level.", "le"), "has a label twice"),
        (gauge("aitorrent_level", "Level.", "peer-id"), "label that is not of the form"),
        (gauge("aitorrent_level", "Level.", ""), "label that is not of the form"),
        (gauge("aitorrent_level", "Level.", max_series=0), "max_series"),
        (histogram("aitorrent_a_seconds", "A.", buckets=()), "must have buckets"),
        (histogram("aitorrent_a_seconds", "A.", buckets=(1.0, 0.5)), "do not ascend"),
        (histogram("aitorrent_a_seconds", "A.", buckets=(math.inf,)), "not finite"),
        (Family(cast(Any, "summary"), "aitorrent_a", "A."), "is not one of counter"),
    ],
)
def test_declarations_are_checked(family: Family, problem: str) -> None:
    found = problem_of(family)
    assert (problem in found) if problem else (found == "")


def test_promtool_accepts_the_text() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (apt install prometheus)")
    hits, wait = Metric(HITS), Histogram(WAIT)
    hits.at('odd "\\\n value', "200").add()
    wait.at("x").observe(0.3)
    text = text_of([hits, wait, Metric.of(LEVEL, math.nan), Metric.of(BYTES, 2**40)])
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
