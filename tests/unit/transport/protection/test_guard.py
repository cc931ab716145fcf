"""Offences add up, scores decay, and the guard bans those with too many."""

from __future__ import annotations

import logging

import pytest

from aitorrent_transport.protection.bans import Ban
from aitorrent_transport.protection.guard import BAN_AT, POINTS, Guard
from aitorrent_transport.protection.limits import Limits
from aitorrent_transport.protection.scores import HALF_LIFE_S, ThreatScores
from aitorrentd.api import Busy, Denied, Event, Offence, PeerBanned, PeerId, PeerMisbehaved
from tests.support.clocks import FakeClock

ME = PeerId("12D3KooWA17BDBvbNzJWs9aN5W7xbHs7JYjfFQdhsoN5xvuVLb3n")
PEER = PeerId("12D3KooWEm7uV2BNFTjUJ7XxLm5kDq3vPZfBxjNBRYsGyJWnN3Zc")
PUBLIC = "8.8.4.4"


class Guarded:
    """A guard with a fake clock, and what it published."""

    def __init__(self, **limits: int) -> None:
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.enforced: list[Ban] = []
        log = logging.getLogger("test")
        self.guard = Guard(ME, self.clock, Limits(**limits), log=log, publish=self.events.append)
        self.guard.on_ban = self.enforced.append

    @property
    def now(self) -> float:
        return self.clock.monotonic()


def test_protocol_error_bans_at_once() -> None:
    g = Guarded()
    g.guard.report(PEER, Offence.PROTOCOL_ERROR, "data on a stream that was never opened")
    assert [ban.subject for ban in g.enforced] == [PEER]
    with pytest.raises(Denied, match="banned for another 600 s: protocol error: data on a stream"):
        g.guard.check("127.0.0.1", PEER)
    assert [type(e) for e in g.events] == [PeerMisbehaved, PeerBanned]


def test_slight_offences_ban_when_they_come_fast_and_never_when_they_are_rare() -> None:
    often, rarely = Guarded(), Guarded()
    count = int(BAN_AT / POINTS[Offence.INVALID_MESSAGE])
    for _ in range(count):
        often.guard.report(PEER, Offence.INVALID_MESSAGE, "not JSON")
    for _ in range(100 * count):
        rarely.guard.report(PEER, Offence.INVALID_MESSAGE, "not JSON")
        rarely.clock.now += HALF_LIFE_S
    assert len(often.enforced) == 1
    assert rarely.enforced == []


def test_each_further_ban_within_a_day_lasts_twice_as_long_up_to_a_day() -> None:
    g = Guarded()
    lengths = []
    for _ in range(10):
        g.guard.report(PEER, Offence.PROTOCOL_ERROR)
        lengths.append(g.enforced[-1].left_s(g.now))
        g.clock.now += lengths[-1] + 1
    assert lengths[:4] == [600, 1200, 2400, 4800]
    assert lengths[-1] == 86_400
    g.clock.now += 86_400
    g.guard.report(PEER, Offence.PROTOCOL_ERROR)
    assert g.enforced[-1].left_s(g.now) == 600


def test_calls_are_limited_per_minute_and_per_hour() -> None:
    g = Guarded(calls_per_minute=100, calls_per_hour=1000)
    for _ in range(100):
        g.guard.admit_call(PEER)
    with pytest.raises(
        Busy, match="more than 100 calls per minute or 1000 per hour; retry in 1 s"
    ) as e:
        g.guard.admit_call(PEER)
    assert e.value.data == {"retry_after_s": 1}
    admitted = 100
    for _ in range(59):
        g.clock.now += 60
        for _ in range(100):
            try:
                g.guard.admit_call(PEER)
            except Busy:
                break
            admitted += 1
    assert 1900 < admitted <= 2000, "the burst of an hour, and an hour at its rate"


def test_refused_calls_do_not_count_as_calls() -> None:
    g = Guarded(calls_per_minute=1)
    g.guard.admit_call(PEER)
    for _ in range(20):
        with pytest.raises(Busy):
            g.guard.admit_call(PEER)
    g.clock.now += 60
    g.guard.admit_call(PEER)


def test_hammering_after_refusals_ends_in_a_ban() -> None:
    g = Guarded(calls_per_minute=1)
    for _ in range(500):
        try:
            g.guard.admit_call(PEER)
        except Busy:
            continue
    assert [ban.reason for ban in g.enforced] == ["excess call"]


def test_node_never_limits_or_bans_itself() -> None:
    g = Guarded(calls_per_minute=1)
    for _ in range(1000):
        g.guard.admit_call(ME)
    g.guard.report(ME, Offence.PROTOCOL_ERROR)
    assert g.enforced == []


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.1.9", "fe80::1%eth0", "10.1.1.1", ""])
def test_failed_handshakes_never_ban_an_address_that_many_may_share(address: str) -> None:
    g = Guarded()
    for _ in range(1000):
        g.guard.report_address(address, Offence.FAILED_HANDSHAKE)
    assert g.enforced == []
    assert g.guard.refusal(address) == ""


def test_failed_handshakes_ban_a_public_host_and_not_its_neighbour() -> None:
    g = Guarded()
    for _ in range(int(BAN_AT / POINTS[Offence.FAILED_HANDSHAKE])):
        g.guard.report_address(PUBLIC, Offence.FAILED_HANDSHAKE, "not this protocol")
    assert [ban.subject for ban in g.enforced] == [PUBLIC]
    assert "failed handshake: not this protocol" in g.guard.refusal(PUBLIC)
    assert g.guard.refusal("8.8.4.5") == ""


def test_misconfigured_node_that_retries_every_minute_is_not_banned() -> None:
    g = Guarded()
    for _ in range(24 * 60):
        g.guard.report_address(PUBLIC, Offence.FAILED_HANDSHAKE, "wrong pre-shared key")
        g.clock.now += 60
    assert g.enforced == []


def test_history_is_bounded_and_its_details_are_cut() -> None:
    g = Guarded()
    for i in range(200):
        g.guard.report(PEER, Offence.EXCESS_CALL, f"{i} " + "x" * 1000)
    history = g.guard.history(PEER)
    assert len(history) == 50
    assert history[-1].detail.startswith("199 ") and len(history[-1].detail) == 200


def test_restored_bans_hold_and_do_not_replace_newer_ones() -> None:
    g = Guarded()
    g.guard.ban(PEER, 1000.0, "by the operator")
    kept = Ban("192.0.2.2", g.now + 5, "flood")
    g.guard.restore([Ban(PEER, g.now + 5, "old"), Ban("192.0.2.1", g.now - 1, "over"), kept])
    assert {(b.subject, b.reason) for b in g.guard.bans.current(g.now)} == {
        (PEER, "by the operator"),
        (kept.subject, kept.reason),
    }


def test_scores_are_bounded_and_the_least_recent_offender_goes_first() -> None:
    scores = ThreatScores(max_subjects=2)
    for subject in ("a", "b", "a", "c"):
        scores.add(subject, 10.0, 0.0)
    assert (scores.of("a", 0.0), scores.of("b", 0.0), scores.of("c", 0.0)) == (20.0, 0.0, 10.0)
    assert scores.of("a", HALF_LIFE_S) == pytest.approx(10.0)
    assert len(scores) == 2
