"""A scrape of some 1,000 lines: our metrics against prometheus_client, in alternating rounds.

    python -m benchmarks.scrape [--rounds 15] [--out FILE]

Both have the same 88 families: counters and gauges of two labels, histograms of 12 buckets. A
scrape makes the text of all, as the event loop does. The samples of both must be equal. Then the
price of counting, and the scrape of a real node with all plugins. CPU time, not wall time.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as TheirCounter
from prometheus_client import Gauge as TheirGauge
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from aitorrentd.api.monitoring.exposition import text_of
from aitorrentd.api.monitoring.families import LATENCY_S, counter, gauge, histogram
from aitorrentd.api.monitoring.metrics import Histogram, Metric
from aitorrentd.node import Node
from benchmarks.report import finish, spread

COUNTERS, GAUGES, HISTOGRAMS = 40, 28, 20
SERIES = {"counter": 8, "gauge": 8, "histogram": 2}
LABELS = ("route", "code")


def ours() -> tuple[list[Metric], Callable[[], object], Callable[[], object]]:
    """The metrics, and what counts and observes once."""
    made: list[Metric] = []
    for i in range(COUNTERS):
        made.append(Metric(counter(f"aitorrent_c{i}_total", "A counter.", *LABELS)))
        for j in range(SERIES["counter"]):
            made[-1].at(f"/path/{j}", "200").add(i + j)
    for i in range(GAUGES):
        made.append(Metric(gauge(f"aitorrent_g{i}", "A gauge.", *LABELS)))
        for j in range(SERIES["gauge"]):
            made[-1].at(f"/path/{j}", "200").set(i + j / 7)
    for i in range(HISTOGRAMS):
        one = Histogram(histogram(f"aitorrent_h{i}_seconds", "A histogram.", *LABELS))
        for j in range(SERIES["histogram"]):
            one.at(f"/path/{j}", "200").observe(0.003 * (j + 1))
        made.append(one)
    count, watch = Metric(counter("aitorrent_n_total", "N.")).at(), made[-1]
    assert isinstance(watch, Histogram)
    row = Histogram(watch.family).at("/", "200")
    return made, lambda: count.add(), lambda: row.observe(0.003)


def theirs() -> tuple[CollectorRegistry, Callable[[], object], Callable[[], object]]:
    """The same with prometheus_client."""
    registry = CollectorRegistry()
    for i in range(COUNTERS):
        one = TheirCounter(f"aitorrent_c{i}", "A counter.", LABELS, registry=registry)
        for j in range(SERIES["counter"]):
            one.labels(f"/path/{j}", "200").inc(i + j)
    for i in range(GAUGES):
        level = TheirGauge(f"aitorrent_g{i}", "A gauge.", LABELS, registry=registry)
        for j in range(SERIES["gauge"]):
            level.labels(f"/path/{j}", "200").set(i + j / 7)
    for i in range(HISTOGRAMS):
        name = f"aitorrent_h{i}_seconds"
        wait = TheirHistogram(name, "A.", LABELS, buckets=LATENCY_S, registry=registry)
        for j in range(SERIES["histogram"]):
            wait.labels(f"/path/{j}", "200").observe(0.003 * (j + 1))
    count = TheirCounter("aitorrent_n", "N.", registry=CollectorRegistry())
    row = TheirHistogram("aitorrent_w", "W.", buckets=LATENCY_S, registry=CollectorRegistry())
    return registry, lambda: count.inc(), lambda: row.observe(0.003)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels, read by prometheus_client's parser."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if not s.name.endswith("_created")
    }


def cpu_ms(work: Callable[[], object], times: int) -> float:
    """CPU time of one call in ms, averaged over `times`."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) * 1e3 / times


async def of_a_node(rounds: int) -> dict[str, Any]:
    """The scrape of a node with all plugins: reading the plugins, then the text."""
    async with Node.temporary() as node:
        text = text_of(node.kernel.metrics())
        took = [cpu_ms(lambda: text_of(node.kernel.metrics()), 20) for _ in range(rounds)]
        return {"lines": text.count("\n"), "cpu_ms": spread(took)}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    mine, add, observe = ours()
    registry, inc, their_observe = theirs()
    text, other = text_of(mine), generate_latest(registry).decode()
    if samples(text) != samples(other):
        raise RuntimeError("the two texts have other samples")
    took: dict[str, list[float]] = {"ours": [], "prometheus_client": []}
    priced: dict[str, list[float]] = {"add": [], "inc": [], "observe": [], "their observe": []}
    for _ in range(args.rounds):
        took["ours"].append(cpu_ms(lambda: text_of(mine).encode(), 20))
        took["prometheus_client"].append(cpu_ms(lambda: generate_latest(registry), 5))
        for name, work in zip(priced, (add, inc, observe, their_observe), strict=True):
            priced[name].append(cpu_ms(work, 50_000) * 1e3)
    ratios = [b / a for a, b in zip(*took.values(), strict=True)]
    figures = {
        "lines": text.count("\n"),
        "families": len(mine),
        "scrape_cpu_ms": {name: spread(values) for name, values in took.items()},
        "ratio": round(statistics.median(ratios), 2),
        "count_us": {name: spread(values) for name, values in priced.items()},
        "node": asyncio.run(of_a_node(args.rounds)),
    }
    finish(figures, args.out)


if __name__ == "__main__":
    main()
