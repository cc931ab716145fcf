"""Which addresses of a peer this node sends to: a peer must not direct it at others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aitorrent_nat.punch.candidates import MOST, Allowance, Candidate, Kind, canonical

SEEN = Allowance(public=frozenset({"11.1.0.2"}))
LAN = Allowance(public=frozenset({"11.1.0.2"}), is_local=True)


def test_a_peer_may_name_only_the_address_where_others_see_it() -> None:
    named = [
        Candidate(Kind.TCP, "11.1.0.2", 40_000),
        Candidate(Kind.TCP, "11.9.0.9", 40_000),
        Candidate(Kind.UDP, "11.9.0.9", 53),
        Candidate(Kind.MANY, "11.9.0.9", 40_000),
        Candidate(Kind.LISTEN, "11.9.0.9", 22),
        Candidate(Kind.UDP, "11.1.0.2", 40_001),
    ]
    assert SEEN.select(named) == [named[0], named[-1]]
    assert Allowance().select(named) == []


@pytest.mark.parametrize("host", ["192.168.1.5", "10.0.0.1", "fd00::1", "169.254.1.1"])
def test_private_addresses_are_used_only_behind_the_same_public_address(host: str) -> None:
    named = [Candidate(Kind.TCP_HOST, host, 40_000), Candidate(Kind.UDP_HOST, host, 40_000)]
    assert SEEN.select(named) == []
    assert LAN.select(named) == named
    assert not LAN.permits(Candidate(Kind.LISTEN, host, 8468))
    assert not LAN.permits(Candidate(Kind.UDP, host, 40_000))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "11.9.0.9", "8.8.8.8"])
def test_no_local_network_permits_this_machine_or_a_stranger(host: str) -> None:
    assert not LAN.permits(Candidate(Kind.TCP_HOST, host, 40_000))


def test_nebula_bridge_that_both_machines_have_is_not_dialled() -> None:
    bridge, wifi = (
        Candidate(Kind.TCP_HOST, host, 40_001) for host in ("172.17.0.1", "192.168.1.7")
    )
    allowance = replace(LAN, own=frozenset({"172.17.0.1", "192.168.1.8"}))
    assert allowance.select([bridge, wifi]) == [wifi]
    assert LAN.select([bridge, wifi]) == [bridge, wifi]


def test_ports_of_services_are_not_punched() -> None:
    for kind in (Kind.TCP, Kind.UDP, Kind.MANY):
        assert not SEEN.permits(Candidate(kind, "11.1.0.2", 22))
    assert SEEN.permits(Candidate(Kind.LISTEN, "11.1.0.2", 443))
    assert not LAN.permits(Candidate(Kind.TCP_HOST, "192.168.1.1", 80))


@pytest.mark.parametrize("kind", list(Kind))
def test_only_a_few_of_each_kind_are_used(kind: Kind) -> None:
    allowance = Allowance(
        public=frozenset({"11.1.0.2"}), is_local=True, turn=frozenset({"11.1.0.2"})
    )
    named = [Candidate(kind, "11.1.0.2", 40_000 + n) for n in range(32)]
    assert allowance.select(named) == named[: MOST[kind]]
    assert allowance.select(named[:1] * 10) == named[:1]


def test_a_relayed_address_is_used_only_on_the_server_that_this_node_uses_too() -> None:
    allowance = Allowance(public=frozenset({"11.1.0.2"}), turn=frozenset({"11.7.0.7"}))
    assert allowance.permits(Candidate(Kind.TURN, "11.7.0.7", 50_000))
    assert not allowance.permits(Candidate(Kind.TURN, "11.1.0.2", 50_000))
    assert not allowance.permits(Candidate(Kind.UDP, "11.7.0.7", 50_000))


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "::ffff:10.0.0.1", "fe80::1%e0"],
)
def test_addresses_that_are_not_of_one_host_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="address"):
        canonical(host)
