"""What the node measures of its process."""

from __future__ import annotations

import logging
import os
import time

from aitorrentd.api import HealthWarning
from aitorrentd.api.monitoring.exposition import text_of
from aitorrentd.runtime import measuring
from aitorrentd.runtime.loop_lag import LoopLag
from tests.support.scraping import Scrape


def shown(*warnings: HealthWarning) -> Scrape:
    lag = LoopLag(logging.getLogger("test"))
    lag.record(0.3)
    return Scrape(text_of(measuring.read(5.0, warnings, lag)))


def test_process_is_measured_as_by_every_prometheus_client() -> None:
    before = time.process_time()
    first = shown(HealthWarning("a", "text", "error"), HealthWarning("b", "text"))
    assert first.values["process_cpu_seconds_total"] > 0
    assert abs(first.values["process_cpu_seconds_total"] - before) < 5
    assert 2**20 < first.values["process_resident_memory_bytes"] < 2**36
    assert first.values["process_virtual_memory_bytes"] > 2**20
    assert first.values["aitorrent_uptime_seconds"] == 5
    assert first.of("aitorrent_warnings") == {
        '{severity="info"}': 0,
        '{severity="warning"}': 1,
        '{severity="error"}': 1,
    }
    assert first.values['aitorrent_loop_lag_seconds_bucket{le="0.25"}'] == 0
    assert first.values['aitorrent_loop_lag_seconds_bucket{le="0.5"}'] == 1


def test_start_of_the_process_does_not_move() -> None:
    """A start time that is computed anew at each scrape differs in its last digits, and every
    sample is stored as a change; alerts on restarts then fire for nothing."""
    started = {shown().values["process_start_time_seconds"] for _ in range(20)}
    assert len(started) == 1
    assert 0 < time.time() - started.pop() < time.clock_gettime(time.CLOCK_BOOTTIME)


def test_open_descriptors_are_counted() -> None:
    before = shown().values["process_open_fds"]
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(7)]
    try:
        assert shown().values["process_open_fds"] == before + 7
    finally:
        for number in held:
            os.close(number)
