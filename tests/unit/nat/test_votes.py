"""Who is believed about this node's address: appendix C of the threat list, number 21."""

from __future__ import annotations

import pytest

from aitorrent_nat.votes import elect

ME, LIE = "203.0.113.7", "192.0.2.66"
HONEST = [("198.18.0.1", ME), ("198.18.0.2", ME), ("198.19.0.1", ME)]


def test_three_witnesses_in_two_networks_are_believed() -> None:
    assert elect(HONEST) == ME


@pytest.mark.parametrize(
    "said",
    [
        [],
        HONEST[:2],
        [("198.18.0.1", ME), ("198.18.0.2", ME), ("198.18.0.3", ME)],
        [*HONEST[:2], ("198.18.0.1", ME)],
    ],
)
def test_fewer_witnesses_or_one_network_are_not_believed(said: list[tuple[str, str]]) -> None:
    assert elect(said) is None


def test_liars_of_one_network_cannot_move_the_address() -> None:
    liars = [(f"192.0.2.{n}", LIE) for n in range(1, 200)]
    assert elect([*HONEST, *liars]) == ME
    assert elect([*liars, *HONEST]) == ME
    assert elect(liars) is None


def test_few_liars_in_many_networks_cannot_move_the_address() -> None:
    assert elect([*HONEST, ("10.1.0.1", LIE), ("10.2.0.1", LIE)]) == ME


def test_kubo_3780_ports_that_differ_for_each_witness_are_not_announced() -> None:
    seen = [(f"198.{18 + n % 9}.{n}.1", (ME, 32_768 + n // 2)) for n in range(200)]
    assert elect(seen) is None, "two of the same port by chance prove nothing"


def test_undecided_election_says_nothing() -> None:
    liars = [("10.1.0.1", LIE), ("10.2.0.1", LIE), ("10.3.0.1", LIE)]
    assert elect([*HONEST, *liars]) is None


def test_witness_has_one_voice_the_last() -> None:
    assert elect([("198.18.0.1", LIE), *HONEST]) == ME


def test_networks_of_ip6_are_32_bits() -> None:
    said = [("2001:db8:1::1", ME), ("2001:db8:2::1", ME), ("2001:db8:3::1", ME)]
    assert elect(said) is None
    assert elect([*said, ("2001:db9::1", ME)]) == ME
