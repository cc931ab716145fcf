"""Which legs are tried between which NATs."""

from __future__ import annotations

import itertools

import pytest

from aitorrent_nat.punch.candidates import Kind
from aitorrent_nat.punch.plan import Behaviour, Leg, Nat, plan
from tests.support.nat.terms import KINDS

ALL = frozenset({Kind.TCP, Kind.UDP, Kind.MANY})
NATS = ("fullcone", "addrrestricted", "portrestricted", "symmetric")
# Without public nodes: they are dialled.
EXPECTED = {
    ("symmetric", "symmetric"): [],
    ("portrestricted", "symmetric"): [Leg.BIRTHDAY],
    ("fullcone", "symmetric"): [Leg.UDP],
    ("addrrestricted", "symmetric"): [Leg.UDP],
}


@pytest.mark.parametrize(("a", "b"), list(itertools.product(NATS, NATS)))
def test_every_pair_of_nats_gets_the_legs_that_can_work(a: str, b: str) -> None:
    found = [step.leg for step in plan(KINDS[a], KINDS[b], ALL, ALL).steps]
    expected = EXPECTED.get((a, b), EXPECTED.get((b, a), [Leg.TCP, Leg.UDP]))
    assert found == expected


@pytest.mark.parametrize(
    ("a", "b"), list(itertools.product([*NATS, "unknown"], [*NATS, "unknown"]))
)
def test_both_ends_come_to_the_same_plan(a: str, b: str) -> None:
    one, other = KINDS.get(a, Nat()), KINDS.get(b, Nat())
    assert plan(one, other, ALL, ALL) == plan(other, one, ALL, ALL)


def test_an_end_that_can_be_dialled_is_dialled_first_and_waits() -> None:
    listening = ALL | {Kind.LISTEN}
    dialer = plan(KINDS["symmetric"], KINDS["public"], ALL, listening)
    waiter = plan(KINDS["public"], KINDS["symmetric"], listening, ALL)
    assert [(step.leg, step.delay_s) for step in dialer.steps] == [
        (Leg.DIAL, 0.0),
        (Leg.UDP, 0.5),
    ]
    assert [(step.leg, step.delay_s) for step in waiter.steps] == [(Leg.UDP, 0.5)]


def test_tcp_has_a_head_start_over_udp() -> None:
    steps = plan(KINDS["portrestricted"], KINDS["portrestricted"], ALL, ALL).steps
    assert [(step.leg, step.delay_s) for step in steps] == [(Leg.TCP, 0.0), (Leg.UDP, 1.0)]


def test_an_unknown_nat_is_tried_and_an_unknown_filter_is_guessed_later() -> None:
    steps = plan(Nat(), KINDS["portrestricted"], ALL, ALL).steps
    assert [step.leg for step in steps] == [Leg.TCP, Leg.UDP]
    unknown_filter = Nat(Behaviour.INDEPENDENT, Behaviour.UNKNOWN)
    steps = plan(unknown_filter, KINDS["symmetric"], ALL, ALL).steps
    assert [(step.leg, step.delay_s) for step in steps] == [(Leg.UDP, 0.0), (Leg.BIRTHDAY, 1.0)]


def test_a_leg_needs_what_both_ends_bring() -> None:
    cone, symmetric = KINDS["portrestricted"], KINDS["symmetric"]
    assert [s.leg for s in plan(cone, cone, {Kind.UDP}, ALL).steps] == [Leg.UDP]
    assert [s.leg for s in plan(cone, cone, ALL, {Kind.TCP}).steps] == [Leg.TCP]
    assert plan(cone, symmetric, ALL, {Kind.TCP, Kind.UDP}).steps == ()
    assert plan(cone, symmetric, ALL, ALL, birthday=False).steps == ()


def test_on_a_local_network_the_nats_do_not_matter() -> None:
    kinds = {Kind.TCP_HOST, Kind.UDP_HOST}
    symmetric = KINDS["symmetric"]
    steps = plan(symmetric, symmetric, kinds, kinds, is_local=True).steps
    assert [step.leg for step in steps] == [Leg.TCP, Leg.UDP]


def test_a_common_turn_server_makes_every_pair_possible() -> None:
    symmetric = KINDS["symmetric"]
    assert [s.leg for s in plan(symmetric, symmetric, {Kind.TURN}, {Kind.TURN}).steps] == [Leg.UDP]
    assert plan(symmetric, symmetric, {Kind.TURN}, {Kind.UDP}).steps == ()


def test_the_reason_names_what_is_in_the_way() -> None:
    assert (
        "both NATs are symmetric" in plan(KINDS["symmetric"], KINDS["symmetric"], ALL, ALL).reason
    )
    assert "must be guessed" in plan(KINDS["symmetric"], KINDS["portrestricted"], ALL, ALL).reason
