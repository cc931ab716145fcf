"""Tokens, waiting times, addresses."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_dht.core.contact import Scope, can_name, contact_of, least_scope, scope_of, subnet_of
from aitorrent_dht.core.timing import FIRST_RTO_S, MAX_RTO_S, MIN_RTO_S, RoundTrip
from aitorrent_dht.core.tokens import ROTATE_S, Tokens
from tests.support.dht.wired import Wired, meet

KEY = b"k" * 32


def test_token_holds_for_its_key_and_address_only() -> None:
    tokens = Tokens(Random(1).randbytes, 0.0)
    token = tokens.give(KEY, "8.8.8.8", 1, 0.0)
    assert tokens.accepts(token, KEY, "8.8.8.8", 1, 1.0)
    assert not tokens.accepts(token, KEY, "8.8.8.8", 2, 1.0)
    assert not tokens.accepts(token, KEY, "8.8.8.9", 1, 1.0)
    assert not tokens.accepts(token, b"x" * 32, "8.8.8.8", 1, 1.0)
    assert not tokens.accepts(token[:-1], KEY, "8.8.8.8", 1, 1.0)
    assert not tokens.accepts(b"", KEY, "8.8.8.8", 1, 1.0)
    assert not Tokens(Random(2).randbytes, 0.0).accepts(token, KEY, "8.8.8.8", 1, 1.0)


def test_token_ends_after_two_changes_of_the_secret_also_while_nothing_happens() -> None:
    tokens = Tokens(Random(1).randbytes, 0.0)
    token = tokens.give(KEY, "8.8.8.8", 1, 0.0)
    assert tokens.accepts(token, KEY, "8.8.8.8", 1, ROTATE_S + 1)
    assert not tokens.accepts(token, KEY, "8.8.8.8", 1, 2 * ROTATE_S + 2)
    quiet = Tokens(Random(1).randbytes, 0.0)
    assert not quiet.accepts(quiet.give(KEY, "h", 1, 0.0), KEY, "h", 1, 100 * ROTATE_S)


def test_near_node_is_asked_again_sooner_than_one_that_is_not_known() -> None:
    near, node = Wired(1), Wired(2)
    meet(near, node)
    unknown = contact_of(bytes(32), "127.0.0.1", 9)
    for _ in range(20):
        node.node.state.round_trip.add(0.4)  # most others are far away
    for contact in (*node.node.contacts(), unknown):
        node.node.rpc.ping(contact, 10.0)
    node.node.take_outgoing()
    node.node.run(10.0 + MIN_RTO_S + 0.01)
    assert [each.to for each in node.sent()] == [near.place]


def test_wait_follows_the_round_trip_within_bounds() -> None:
    near, far = RoundTrip(), RoundTrip()
    assert near.rto_s() == FIRST_RTO_S
    for _ in range(20):
        near.add(0.001)
        far.add(5.0)
    assert near.rto_s() == MIN_RTO_S
    assert far.rto_s() == MAX_RTO_S


@given(st.lists(st.floats(0.0, 60.0), min_size=1))
def test_wait_is_always_within_bounds(times: list[float]) -> None:
    it = RoundTrip()
    for each in times:
        it.add(each)
    assert MIN_RTO_S <= it.rto_s() <= MAX_RTO_S


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("8.8.8.8", Scope.GLOBAL),
        ("2a00::1", Scope.GLOBAL),
        ("127.0.0.1", Scope.MACHINE),
        ("::1", Scope.MACHINE),
        ("10.1.2.3", Scope.SITE),
        ("192.168.1.1", Scope.SITE),
        ("100.64.0.1", Scope.SITE),
        ("fd00::1", Scope.SITE),
        ("224.0.0.1", Scope.NOWHERE),
        ("ff02::1", Scope.NOWHERE),
        ("255.255.255.255", Scope.NOWHERE),
        ("0.0.0.0", Scope.NOWHERE),
        ("0.1.2.3", Scope.NOWHERE),
        ("240.0.0.1", Scope.NOWHERE),
        ("::", Scope.NOWHERE),
        ("fe80::1", Scope.NOWHERE),
        ("::ffff:8.8.8.8", Scope.NOWHERE),
        ("example.org", Scope.NOWHERE),
        ("", Scope.NOWHERE),
    ],
)
def test_scope_of_an_address(host: str, scope: Scope) -> None:
    assert scope_of(host) is scope


def test_strangers_cannot_name_addresses_of_a_private_network() -> None:
    def named_by(teller: str, host: str, port: int = 8468) -> bool:
        return can_name(least_scope(teller), contact_of(KEY, host, port))

    assert named_by("8.8.8.8", "9.9.9.9")
    assert not named_by("8.8.8.8", "192.168.1.1")
    assert not named_by("8.8.8.8", "127.0.0.1")
    assert not named_by("192.168.1.7", "127.0.0.1")
    assert not named_by("8.8.8.8", "224.0.0.1")
    assert not named_by("8.8.8.8", "9.9.9.9", 0)
    assert named_by("192.168.1.7", "192.168.1.1")
    assert named_by("192.168.1.7", "9.9.9.9")
    assert named_by("127.0.0.1", "127.0.0.1")


def test_private_networks_count_as_no_subnet() -> None:
    assert subnet_of("8.8.8.8") == "8.8.8"
    assert subnet_of("2a00:1:2:3ff::1") == subnet_of("2a00:1:2:300::2") != subnet_of("2a00:1:2::")
    assert subnet_of("10.0.0.1") == subnet_of("::1") == subnet_of("127.0.0.9") == ""
