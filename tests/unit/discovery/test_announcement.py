"""What mDNS says and what is believed of it: kinds of reports of other projects' trackers.

python-zeroconf 1777 and 976 (interfaces that come later), go-libp2p 253 (only the VPN's interface
was used), rust-libp2p 5995 (loopback addresses announced: a node dialled itself), holochain-proto
238 (Docker's addresses confuse), syncthing 6933 (0.0.0.0 announced), 7300 (a log line for each
failure), 346 (IPv6 broadcast computed like IPv4), avahi 437 and 117 (renaming without an end),
ipfs/kubo 6359 (no address at start), electrumx 154 (reserved addresses dialled again and again),
bitcoin 22387 (floods of addresses), memberlist 157 (an address may change while the name stays).
"""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_discovery.lan.announcement import (
    announced,
    announcement,
    listens_on_loopback_only,
    tag_text,
    txt,
)
from aitorrent_discovery.lan.interfaces import LocalInterfaces, is_local
from aitorrent_discovery.records.places import dialable
from aitorrentd.api import PeerId
from aitorrentd.api.network.addresses import parse_address
from tests.support.discovery.records import peer

HOME = ("192.168.1.0/24", "fd00:1::/64")
UP, LOOPBACK, POINT_TO_POINT, MULTICAST = 0x1, 0x8, 0x10, 0x1000


def heard(
    hosts: list[str], port: int = 8468, network: str = "net", **changes: str
) -> tuple[PeerId, list[str]] | None:
    fields = {**txt(peer("a"), "net"), **changes}
    properties = {key.encode(): value.encode() for key, value in fields.items()}
    found = announced(properties, hosts, port, network=network, networks=HOME)
    return None if found is None else (found[0], [address.host for address in found[1]])


def test_announcement_is_understood_by_a_node_of_the_same_network_only() -> None:
    assert heard(["192.168.1.7"]) == (peer("a"), ["192.168.1.7"])
    assert heard(["192.168.1.7"], network="another") is None


def test_announcement_tells_no_network_name() -> None:
    assert "secret-name" not in str(txt(peer("a"), "secret-name"))
    assert len(tag_text("secret-name")) == 16


@pytest.mark.parametrize(
    "changes",
    [{"v": "2"}, {"id": ""}, {"id": "12D3KooWnot"}, {"id": "\xff"}, {"net": ""}, {"id": "x" * 255}],
)
def test_services_of_others_are_ignored(changes: dict[str, Any]) -> None:
    assert heard(["192.168.1.7"], **changes) is None


def test_txt_without_values_is_ignored() -> None:
    assert announced({b"id": None, b"v": b"1"}, [], 1, network="net", networks=HOME) is None


def test_fake_service_makes_nobody_dial_beyond_the_link() -> None:
    hosts = ["8.8.8.8", "10.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.251", "::1", "fe80::1", "x"]
    assert heard(hosts) == (peer("a"), [])


def test_fake_service_with_a_thousand_addresses_costs_eight_dials() -> None:
    found = heard([f"192.168.1.{i}" for i in range(1, 250)] * 4)
    assert found is not None and len(found[1]) == 8


@pytest.mark.parametrize("port", [0, 65_536, -1])
def test_impossible_port_is_no_address(port: int) -> None:
    assert heard(["192.168.1.7"], port) == (peer("a"), [])


def test_only_addresses_of_the_local_networks_are_announced() -> None:
    listed = ["127.0.0.1", "172.17.0.1", "192.168.1.9", "203.0.113.5"]
    addresses = [f"/ip4/{host}/tcp/8468/p2p/{peer('a')}" for host in listed]
    told = announcement([*addresses, f"/ip6/fd00:1::9/tcp/8468/p2p/{peer('a')}"], HOME)
    assert told is not None
    assert (told.hosts, told.port) == (("fd00:1::9", "192.168.1.9"), 8468)


def test_node_without_a_local_address_announces_nothing_yet() -> None:
    assert announcement([], HOME) is None
    assert announcement([f"/ip4/127.0.0.1/tcp/1/p2p/{peer('a')}"], HOME) is None


def test_node_on_loopback_stays_quiet() -> None:
    assert listens_on_loopback_only(["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"])
    assert not listens_on_loopback_only(["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"])


@pytest.mark.parametrize(
    ("flags", "used"),
    [
        (UP | MULTICAST, True),
        (MULTICAST, False),
        (UP, False),
        (UP | MULTICAST | LOOPBACK, False),
        (UP | MULTICAST | POINT_TO_POINT, False),
    ],
)
def test_interfaces_that_are_no_local_network_are_not_used(flags: int, used: bool) -> None:
    assert is_local(flags) is used


def test_interfaces_are_compared_by_what_they_are() -> None:
    one = LocalInterfaces(("10.0.0.1",), (2,), ("10.0.0.0/24",))
    assert one == LocalInterfaces(("10.0.0.1",), (2,), ("10.0.0.0/24",))
    assert one and not LocalInterfaces((), (), ())


def test_reserved_addresses_are_never_dialled() -> None:
    for host in ("253.169.109.77", "240.0.0.1", "0.1.1.1"):
        assert dialable([parse_address(f"{host}:50002")], "8.8.8.8") == ()


def test_address_of_this_machines_own_docker_bridge_is_not_dialled() -> None:
    own = [parse_address("172.17.0.1:8468")]
    theirs = [parse_address("172.17.0.1:8468"), parse_address("192.168.1.7:8468")]
    assert [a.host for a in dialable(theirs, "192.168.1.7", own)] == ["192.168.1.7"]
