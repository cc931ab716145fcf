"""Which addresses of a record are dialled."""

from __future__ import annotations

import pytest

from aitorrent_discovery.records.places import MAX_PLACES, dialable, on_link, subnet
from aitorrentd.api import peer_id
from aitorrentd.api.network.addresses import parse_address

HERE, NEAR, AFAR = "127.0.0.1", "192.168.1.7", "8.8.8.8"


def kept(listed: list[str], teller: str, own: list[str] | None = None) -> list[str]:
    found = dialable(map(parse_address, listed), teller, map(parse_address, own or []))
    return [address.host for address in found]


@pytest.mark.parametrize(
    ("host", "tellers"),
    [
        ("8.8.4.4", (HERE, NEAR, AFAR)),
        ("[2606:4700::1]", (HERE, NEAR, AFAR)),
        ("10.1.2.3", (HERE, NEAR)),
        ("100.64.0.1", (HERE, NEAR)),
        ("169.254.1.1", (HERE, NEAR)),
        ("[fe80::9]", ()),  # go-libp2p #2659, kubo #529: without a zone, nobody can dial it
        ("[fd00::1]", (HERE, NEAR)),
        ("198.18.0.5", (HERE, NEAR)),
        ("127.0.0.1", (HERE,)),
        ("[::1]", (HERE,)),
        ("localhost", (HERE,)),
        ("240.0.0.1", ()),
        ("0.1.2.3", (HERE, NEAR)),
        ("node.example", (HERE, NEAR, AFAR)),
    ],
)
def test_private_addresses_from_afar_are_not_dialled(host: str, tellers: tuple[str, ...]) -> None:
    assert tuple(t for t in (HERE, NEAR, AFAR) if kept([f"{host}:8468"], t)) == tellers


def test_addresses_through_relays_come_last_and_hide_no_relay() -> None:
    relay, node = peer_id(bytes(32)), peer_id(bytes(31) + b"n")
    circuit = f"/ip4/8.8.4.4/tcp/8468/p2p/{relay}/p2p-circuit"
    found = dialable(
        map(parse_address, [f"{circuit}/p2p/{node}", "8.8.4.4:8468"]),
        AFAR,
        [parse_address(circuit)],
    )
    assert [address.relay for address in found] == [None, relay]
    assert on_link(map(parse_address, [circuit]), ["8.8.4.0/24"]) == ()


def test_own_addresses_are_not_dialled_whoever_claims_them() -> None:
    listed = ["172.17.0.1:8468", "172.17.0.1:9000", "192.168.1.9:8468"]
    assert kept(listed, NEAR, ["172.17.0.1:8468"]) == ["172.17.0.1", "192.168.1.9"]
    assert kept(["127.0.0.1:8468"], HERE, ["127.0.0.1:8468"]) == []


def test_places_of_one_peer_are_few_and_names_fewer() -> None:
    listed = [f"{i}.example:1" for i in range(9)] + [f"8.8.4.{i}:1" for i in range(1, 20)]
    found = kept(listed, AFAR)
    assert len(found) == MAX_PLACES
    assert found[0] == "8.8.4.1", "names come last"
    assert kept(listed[:9], AFAR) == ["0.example", "1.example"]


def test_only_addresses_of_the_attached_networks_are_on_the_link() -> None:
    listed = ["192.168.1.9:1", "192.168.2.9:1", "8.8.8.8:53", "[fd00:1::9]:1", "[fe80::9]:1"]
    found = on_link(map(parse_address, listed), ["192.168.1.0/24", "fd00:1::/64"])
    assert [address.host for address in found] == ["fd00:1::9", "192.168.1.9"]
    assert on_link(map(parse_address, listed), []) == ()


def test_subnets_are_those_of_one_owner() -> None:
    assert subnet("203.0.113.9") == subnet("203.0.1.1") != subnet("203.1.0.1")
    assert subnet("2001:db8:1::1") == subnet("2001:db8:ffff::1") != subnet("2001:db9::1")
