"""When the web is left out beside peers: only as long as peers alone are as fast as both."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aitorrent_seeding.library.pace import Pace

STEP_S = 0.05
Rates = Callable[[float, bool], tuple[float, float]]
"Pieces per second from peers and from the web, at a time, with or without the web."


def uses(rates: Rates, *, seconds: float) -> list[bool]:
    """Whether the web was asked, at each step."""
    pace, seen = Pace(), []
    from_peers = from_web = 0.0
    for step in range(round(seconds / STEP_S)):
        now = 1000.0 + step * STEP_S
        peers, web = rates(now - 1000.0, pace.uses_web)
        from_peers += peers * STEP_S
        from_web += web * STEP_S if pace.uses_web else 0.0
        pace.look(now, held=int(from_peers + from_web), from_peers=int(from_peers))
        seen.append(pace.uses_web)
    return seen


def share(seen: list[bool]) -> float:
    """Of the time, with the web."""
    return sum(seen) / len(seen)


def test_web_is_left_out_where_peers_alone_fill_the_machine() -> None:
    seen = uses(lambda at, web: (50.0, 50.0) if web else (100.0, 0.0), seconds=20.0)
    assert not any(seen[round(1.5 / STEP_S) :])


def test_both_go_on_where_they_are_faster_together() -> None:
    seen = uses(lambda at, web: (20.0, 20.0), seconds=600.0)
    assert share(seen) > 0.97, "trials become rarer"


def test_web_alone_is_never_left_out() -> None:
    assert all(uses(lambda at, web: (0.0, 20.0), seconds=60.0))


@pytest.mark.parametrize("left", [0.0, 30.0], ids=["none", "slower"])
def test_web_comes_back_when_peers_slow_down(left: float) -> None:
    def rates(at: float, web: bool) -> tuple[float, float]:
        if at < 10.0:
            return (50.0, 50.0) if web else (100.0, 0.0)
        return left, 50.0

    seen = uses(rates, seconds=20.0)
    assert not seen[round(9.0 / STEP_S)]
    assert share(seen[round(12.0 / STEP_S) :]) > 0.8


def test_slow_link_is_measured_over_more_than_a_piece_or_two() -> None:
    """Pieces of 4 MiB on 8 MiB/s: a short window would see none, or twice as many."""
    seen = uses(lambda at, web: (1.0, 1.0) if web else (2.0, 0.0), seconds=30.0)
    assert not any(seen[round(10.0 / STEP_S) :])
