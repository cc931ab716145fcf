"""Metrics of plugins: what may be declared, and plugins whose metrics cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import PluginInfo, hookimpl
from aitorrentd.api.monitoring.families import Family, counter, gauge
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.kernel.found import PluginSource
from aitorrentd.kernel.kernel import Kernel
from tests.support.kernel_plugins import kernel, made, states

HITS = counter("aitorrent_hits_total", "Hits.")
LEVEL = gauge("aitorrent_level", "A level.")


def measuring(
    name: str, *families: Any, read: Callable[[], Any] = lambda: (), **info: Any
) -> PluginSource:
    """A plugin that declares these families and reads them with `read`."""
    declared = info.pop("metrics", families)
    hooks = {
        "aitorrent_info": hookimpl(lambda self: PluginInfo(name, "measures", metrics=declared)),
        "aitorrent_metrics": hookimpl(lambda self, ctx: read()),
    }
    return PluginSource.of(type("Measuring", (), hooks), name=name)


def values(node: Kernel) -> dict[str, dict[tuple[str, ...], float]]:
    """Numbers by labels, by name."""
    return {
        m.family.name: {labels: s.value for labels, s in m.by_labels().items()}
        for m in node.metrics()
    }


@pytest.mark.parametrize(
    ("families", "detail"),
    [
        ([HITS], "PluginInfo.metrics is not a tuple of Family"),
        (("aitorrent_hits_total",), "PluginInfo.metrics is not a tuple of Family"),
        ((counter("aitorrent_hits", "Hits."),), "metric aitorrent_hits must end with _total"),
        ((gauge("process_open_fds", "Mine."),), "metric process_open_fds does not start with"),
        ((HITS, HITS), "metric aitorrent_hits is declared twice"),
    ],
)
async def test_family_that_cannot_be_scraped_breaks_its_plugin(
    tmp_path: Path, families: Any, detail: str
) -> None:
    async with kernel(tmp_path, measuring("bad", metrics=families), made("good")) as node:
        assert (states(node)["good"], states(node)["bad"]) == ("running", "broken")
        assert node.row("bad").detail.startswith(detail)


async def test_two_plugins_cannot_declare_one_family(tmp_path: Path) -> None:
    async with kernel(tmp_path, measuring("a", HITS), measuring("b", HITS)) as node:
        assert states(node) == {"a": "running", "b": "broken"}
        assert node.row("b").detail == (
            "metric aitorrent_hits_total is already declared by plugin a"
        )


def undeclared() -> list[Metric]:
    return [Metric.of(LEVEL, 1)]


def failing() -> list[Metric]:
    raise ZeroDivisionError("no")


def ending() -> list[Metric]:
    raise SystemExit


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (failing, "ZeroDivisionError"),
        (ending, "SystemExit"),
        (undeclared, "aitorrent_level is not in its PluginInfo.metrics"),
        (lambda: None, None),
        (lambda: 5, "aitorrent_metrics returned a int"),
        (lambda: ["x"], "aitorrent_metrics lists a str, not a Metric"),
    ],
)
async def test_plugin_that_cannot_be_read_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Callable[[], Any], text: str | None
) -> None:
    good = measuring("good", LEVEL, read=lambda: [Metric.of(LEVEL, 7)])
    async with kernel(tmp_path, measuring("bad", HITS, read=read), good) as node:
        with caplog.at_level(logging.WARNING, "aitorrentd.kernel"):
            shown = values(node), values(node)
        assert shown[0] == shown[1]
        assert shown[0]["aitorrent_level"] == {(): 7}
        assert shown[0]["aitorrent_plugin_metrics_unreadable"] == {
            ("bad",): int(text is not None),
            ("good",): 0,
        }
        told = [r.message for r in caplog.records if "its metrics cannot be read" in r.message]
        assert len(told) == (text is not None), "told once, not at every scrape"
        assert text is None or text in told[0]


async def test_metrics_come_and_go_with_their_plugin(tmp_path: Path) -> None:
    hits = Metric(HITS)
    hits.at().add(3)
    async with kernel(tmp_path, measuring("a", HITS, read=lambda: [hits])) as node:
        assert values(node)["aitorrent_hits_total"] == {(): 3}
        assert values(node)["aitorrent_plugin_state"] == {("a", "running"): 1}
        await node.disable("a")
        assert "aitorrent_hits_total" not in values(node)
        assert values(node)["aitorrent_plugin_state"] == {("a", "disabled"): 1}
        node.drain.switch(True)
        assert values(node)["aitorrent_draining"] == {(): 1}


def test_kernel_families_are_valid() -> None:
    from aitorrentd.api.monitoring.families import problem_of
    from aitorrentd.kernel import measuring as of_kernel
    from aitorrentd.runtime import measuring as of_node

    families: tuple[Family, ...] = (*of_kernel.FAMILIES, *of_node.FAMILIES)
    assert [problem_of(family) for family in families if problem_of(family)] == []
