from __future__ import annotations

from aitorrentd.api.tally import Tally


def test_first_event_is_told_at_once_and_later_ones_once_a_minute() -> None:
    tally = Tally()
    assert tally.add("too slow", "10.5.0.7", 0.0) == "1 (10.5.0.7): too slow"
    assert [tally.add("too slow", "10.5.0.7", float(t)) for t in range(1, 60)] == [None] * 59
    tally.add("too many", "10.5.0.8", 59.5)
    assert tally.add("too slow", "10.5.0.7", 60.0) == "61 (60 from 10.5.0.7): too slow; too many"
    assert tally.total == 62


def test_sources_without_end_cost_bounded_memory() -> None:
    tally = Tally(every_s=1e9)
    for i in range(5000):
        tally.add("x", f"host {i}", float(i))
    assert len(tally._sources) <= 256
    assert tally.summary().startswith("4999 ")


def test_events_without_a_source_name_only_the_cause() -> None:
    assert Tally().add("64 connections are open", "", 0.0) == "1: 64 connections are open"
