"""When a silent peer is lost: by pings without an answer, or by what the kernel says. No I/O."""

from __future__ import annotations

from aitorrent_transport.streams.pings import Pings

KEEPALIVE_S = 15.0


def test_peer_that_acknowledges_nothing_is_lost_after_a_third_of_the_keepalive() -> None:
    pings = Pings(KEEPALIVE_S, 0.0)
    assert pings.check(3.0, 100, is_unheard=True) == ""  # bytes arrived since the last look
    assert pings.check(6.0, 100, is_unheard=True) == ""
    assert pings.check(8.0, 100, is_unheard=True) == ("nothing arrives there or from there for 5 s")


def test_peer_that_is_heard_is_not_lost_though_it_acknowledges_nothing() -> None:
    pings = Pings(KEEPALIVE_S, 0.0)
    assert not any(pings.check(3.0 * n, 100 * n, is_unheard=True) for n in range(1, 20))


def test_idle_peer_is_not_lost_without_a_ping() -> None:
    pings = Pings(KEEPALIVE_S, 0.0)
    assert not any(pings.check(3.0 * n, 100) for n in range(1, 20))


def test_peer_that_answers_no_ping_is_lost_after_four_thirds_of_the_keepalive() -> None:
    pings = Pings(KEEPALIVE_S, 0.0)
    pings.begin(0.0, None)
    told = [pings.check(3.0 * n, 0) for n in range(1, 8)]
    assert told[:6] == [""] * 6 and told[6] == "silent for 21 s"


def test_stall_of_this_process_is_not_the_peers_fault() -> None:
    pings = Pings(KEEPALIVE_S, 0.0)
    pings.begin(0.0, None)
    assert pings.check(60.0, 0, is_unheard=True) == ""
