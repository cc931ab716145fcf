"""Punching sessions through real NAT boxes: which leg connects, how fast, what is in the way."""

from __future__ import annotations

import asyncio

import pytest

from aitorrent_nat.punch import birthday
from aitorrent_nat.punch.messages import Result
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nat.sessions import pair

pytestmark = [pytest.mark.root, pytest.mark.skipif(not CAN_MAKE, reason=REASON)]


@pytest.mark.parametrize(
    ("a", "b", "leg", "within_s"),
    [
        ("fullcone", "portrestricted", "tcp-punch", 2),
        ("portrestricted", "portrestricted", "tcp-punch", 2),
        ("symmetric", "fullcone", "udp-punch", 2),
        ("addrrestricted", "symmetric", "udp-punch", 2),
        ("portrestricted", "symmetric", "birthday-punch", 12),
        ("symmetric", "portrestricted", "birthday-punch", 12),
    ],
)
def test_the_leg_of_the_plan_connects(
    nat_lab: Lab,
    figures: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    a: str,
    b: str,
    leg: str,
    within_s: float,
) -> None:
    # In the same time, twice as many guesses: the usual ones miss once in a thousand times.
    monkeypatch.setattr(birthday, "GUESSES", 2 * birthday.GUESSES)
    monkeypatch.setattr(birthday, "PACE_S", birthday.PACE_S / 2)
    with pair(nat_lab, nat_lab.place(a), nat_lab.place(b)) as both:
        results = both.run()
        assert results == (Result(True, leg), Result(True, leg))
        [one, two] = both.outcome(leg)
        assert one.ok
        assert two.ok
        figures[f"{leg}, {a} and {b}"] = f"{one.took_s:.3f} s"
        assert max(one.took_s, two.took_s) < within_s
        assert both.arounds[1].host.public in one.where
        assert both.arounds[0].host.public in two.where


def test_two_symmetric_nats_are_not_tried(nat_lab: Lab) -> None:
    with pair(nat_lab, nat_lab.place("symmetric"), nat_lab.place("symmetric")) as both:
        for result in both.run():
            assert not result.ok
            assert "both NATs are symmetric" in result.said


def test_a_nat_that_answers_with_rst_costs_an_attempt(nat_lab: Lab) -> None:
    one = nat_lab.place("portrestricted", resets=True)
    two = nat_lab.place("portrestricted", resets=True)
    with pair(nat_lab, one, two) as both:
        results = both.run()
        assert all(result.ok for result in results)


def test_without_udp_tcp_connects_and_without_tcp_udp(nat_lab: Lab) -> None:
    one, two = nat_lab.place("portrestricted", udp=False), nat_lab.place("portrestricted")
    with pair(nat_lab, one, two) as both:
        results = both.run()
        assert {result.said for result in results} == {"tcp-punch"}, both.outcome("tcp-punch")
    three, four = nat_lab.place("portrestricted"), nat_lab.place("portrestricted")
    with pair(nat_lab, three, four) as both:
        both.arounds[0].mirror_places = []
        assert {result.said for result in both.run()} == {"udp-punch"}
        [attempt] = both.outcome("tcp-punch")
        assert attempt.outcome.startswith("not tried: no public peer is connected")


def test_ports_that_a_nat_changes_are_punched_too(nat_lab: Lab) -> None:
    one = nat_lab.place("portrestricted", keeps_ports=False)
    two = nat_lab.place("portrestricted", keeps_ports=False)
    with pair(nat_lab, one, two) as both:
        results = both.run()
        assert {result.said for result in results} == {"tcp-punch"}, both.outcome("tcp-punch")


def test_hosts_behind_one_nat_find_each_other_on_their_network(nat_lab: Lab) -> None:
    box = nat_lab.nat("symmetric")
    one, two = nat_lab.host(box), nat_lab.host(box)
    with pair(nat_lab, one, two) as both:
        results = both.run()
        assert {result.said for result in results} == {"tcp-punch"}, both.outcome("tcp-punch")
        assert both.outcome("tcp-punch")[0].where.startswith(f"/ip4/{two.address}/tcp/")


def test_nothing_is_sent_to_a_peer_that_nobody_has_seen(nat_lab: Lab) -> None:
    with pair(nat_lab, nat_lab.place("fullcone"), nat_lab.place("fullcone")) as both:
        for around in both.arounds:
            around.sees = frozenset()
        for result in both.run():
            assert not result.ok
        for leg in ("tcp-punch", "udp-punch"):
            for attempt in both.outcome(leg):
                assert "no common peer says where" in attempt.outcome
                assert attempt.where == ""


def test_bytes_cross_the_punched_connections(nat_lab: Lab) -> None:
    for kind in ("portrestricted", "symmetric"):
        with pair(nat_lab, nat_lab.place("fullcone"), nat_lab.place(kind)) as both:
            assert all(result.ok for result in both.run())
            [sender] = both.arounds[0].port.secured.values()
            [receiver] = both.arounds[1].port.secured.values()
            receiver.wanted = 2_000_000
            both.ends[0].run(sender.send(receiver.wanted))
            both.ends[1].run(asyncio.wait_for(receiver.complete.wait(), 20))
            assert receiver.received == receiver.wanted
