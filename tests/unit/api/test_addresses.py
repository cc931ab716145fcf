from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.peers.told import told_addresses
from aitorrentd.api import InvalidParams, PeerId, peer_id
from aitorrentd.api.network.addresses import Address, address_of, parse_address
from tests.support.effort import examples

ID = peer_id(bytes(32))
RELAY = peer_id(bytes(31) + b"r")

GOOD = {
    "/ip4/203.0.113.1/tcp/8468": "/ip4/203.0.113.1/tcp/8468",
    f"/ip4/203.0.113.1/tcp/8468/p2p/{ID}": f"/ip4/203.0.113.1/tcp/8468/p2p/{ID}",
    f"/ip4/203.0.113.1/tcp/443/ws/p2p/{ID}": f"/ip4/203.0.113.1/tcp/443/ws/p2p/{ID}",
    f"/ip4/203.0.113.1/tcp/8468/p2p/{RELAY}/p2p-circuit/p2p/{ID}": (
        f"/ip4/203.0.113.1/tcp/8468/p2p/{RELAY}/p2p-circuit/p2p/{ID}"
    ),
    f"/dns/relay.example/tcp/443/ws/p2p/{RELAY}/p2p-circuit": (
        f"/dns/relay.example/tcp/443/ws/p2p/{RELAY}/p2p-circuit"
    ),
    "/ip6/2001:DB8::1/tcp/1": "/ip6/2001:db8::1/tcp/1",
    "/ip6/::ffff:192.0.2.1/tcp/80": "/ip4/192.0.2.1/tcp/80",
    "/dns/Example.ORG/tcp/65535": "/dns/example.org/tcp/65535",
    "/dns4/a-b.Example.org./tcp/9": "/dns4/a-b.example.org./tcp/9",
    "/dns6/localhost/tcp/9/ws": "/dns6/localhost/tcp/9/ws",
    "203.0.113.1:8468": "/ip4/203.0.113.1/tcp/8468",
    "localhost:8468": "/dns/localhost/tcp/8468",
    "[2001:db8::1]:8468": "/ip6/2001:db8::1/tcp/8468",
    "[::ffff:10.0.0.1]:1": "/ip4/10.0.0.1/tcp/1",
    "my_host.lan:80": "/dns/my_host.lan/tcp/80",
}

BAD = {
    "": "the address is empty",
    "203.0.113.1": "the port is missing",
    "203.0.113.1:": "the port is missing",
    ID: "it is a peer id",
    ":8468": "not a host name",
    "203.0.113.1:0": "1 to 65535",
    "203.0.113.1:65536": "1 to 65535",
    "203.0.113.1:+80": "1 to 65535",
    "203.0.113.1:８０": "1 to 65535",
    "203.0.113.1:80 ": "1 to 65535",
    "203.0.113.256:80": "not an address",
    "010.0.0.1:80": "not an address",
    "1.2.3:80": "not an address",
    "0.0.0.0:80": "means all addresses",
    "[::]:80": "means all addresses",
    "224.0.0.1:80": "not a unicast address",
    "255.255.255.255:80": "not a unicast address",
    "2001:db8::1:80": "IPv6 in brackets",
    "[203.0.113.1]:80": "only IPv6 addresses take brackets",
    "[fe80::1%eth0]:80": "zone",
    f"/ip4/203.0.113.1/tcp/1/p2p/{ID}/p2p-circuit/p2p/{ID}": "cannot be its own relay",
    "/ip4/203.0.113.1/tcp/1/p2p-circuit": "follows /p2p/RELAY",
    f"/ip4/203.0.113.1/tcp/1/p2p/{ID}/p2p-circut/p2p/{ID}": "unexpected /p2p-circut/",
    f"/ip4/203.0.113.1/tcp/1/p2p/{ID}/p2p-circuit/tcp/2": "unexpected /tcp/2 at the end",
    "/ip4/203.0.113.1": "expected /ip4/HOST/tcp/PORT",
    "/ip4/203.0.113.1/udp/8468/quic": "udp is not supported",
    "/ip4/2001:db8::1/tcp/80": "not an ip4 address",
    "/ip6/203.0.113.1/tcp/80/": "unexpected",
    "/unix/tmp/tcp/80": "unknown part /unix",
    "/dns/-bad/tcp/80": "not a host name",
    "/dns/0x7f.1/tcp/80": "its last part is a number",
    "0x7f000001:80": "its last part is a number",
    "hub.0:80": "its last part is a number",
    "b\u00fccher.example:80": "which begins with xn--",
    "hub..:80": "not a host name",
    "/dns/./tcp/80": "not a host name",
    "/dns/a..b/tcp/80": "not a host name",
    f"/dns/{'a' * 64}/tcp/80": "not a host name",
    "/dns/ex\nample/tcp/80": "not a host name",
    "/dns/host/tcp/80/p2p": "unexpected",
    "/dns/host/tcp/80/p2p/QmOther": "not the peer id|base58",
    "x" * 401: "at most 400 characters",
}


@pytest.mark.parametrize("text", GOOD)
def test_address_is_understood_and_written_canonically(text: str) -> None:
    address = parse_address(text)
    assert str(address) == GOOD[text]
    assert parse_address(str(address)) == address


@pytest.mark.parametrize("text", BAD)
def test_bad_address_is_refused_with_the_part_that_is_wrong(text: str) -> None:
    with pytest.raises(InvalidParams, match=BAD[text]):
        parse_address(text)


@settings(max_examples=examples(200))
@given(
    st.one_of(
        st.text(max_size=60),
        st.text("/:[].0123456789abcdefiptcdnsw%", max_size=60),
        st.sampled_from(list(GOOD)).flatmap(
            lambda t: st.integers(0, len(t)).flatmap(
                lambda i: st.text(max_size=3).map(lambda x: t[:i] + x + t[i + 1 :])
            )
        ),
    )
)
def test_any_text_is_an_address_or_invalid(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidParams:
        return
    assert parse_address(str(address)) == address


def test_socket_name_becomes_an_address() -> None:
    assert str(address_of("::ffff:10.0.0.1", 5)) == "/ip4/10.0.0.1/tcp/5"
    assert str(address_of("fe80::1%eth0", 5)) == "/ip6/fe80::1/tcp/5"
    with pytest.raises(InvalidParams, match="port"):
        address_of("10.0.0.1", 0)


def test_told_addresses_are_of_the_teller_and_dialable() -> None:
    other = peer_id(bytes([1]) * 32)
    listed: object = [
        f"/ip4/198.51.100.7/tcp/8468/p2p/{ID}",
        "/ip4/127.0.0.1/tcp/8468",
        f"/ip4/198.51.100.8/tcp/8468/p2p/{other}",
        "nonsense",
        7,
        {"a": 1},
    ]
    told = told_addresses(listed, ID, "203.0.113.9")
    assert [a.location for a in told] == [
        "/ip4/203.0.113.9/tcp/8468",
        "/ip4/198.51.100.7/tcp/8468",
    ]
    assert {a.peer for a in told} == {ID}


@pytest.mark.parametrize("listed", [None, "text", {"x": 1}, 5, [["nested"]], []])
def test_told_addresses_of_any_shape_are_taken(listed: object) -> None:
    assert told_addresses(listed, ID, "203.0.113.9") == ()


def test_told_addresses_are_few() -> None:
    listed = [f"/ip4/198.51.100.{i}/tcp/{i + 1}" for i in range(200)]
    assert len(told_addresses(listed, PeerId(ID), "203.0.113.9")) == 16


def test_loopback_is_believed_from_this_machine_only() -> None:
    listed = [
        "/ip6/fe80::1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/ip6/::1/tcp/1",
        "/dns/localhost/tcp/1",
    ]
    assert len(told_addresses(listed, ID, "127.0.0.1")) == 3
    assert [str(a.host) for a in told_addresses(listed, ID, "203.0.113.9")] == ["203.0.113.9"]


def test_address_with_a_peer_keeps_its_place() -> None:
    address = Address("ip4", "192.0.2.1", 1, masked=True)
    assert str(address.of(ID)) == f"/ip4/192.0.2.1/tcp/1/ws/p2p/{ID}"
