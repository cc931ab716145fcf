"""Peer records: the codec, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_discovery.records.codec import (
    FUTURE_S,
    MAX_ADDRESSES,
    MAX_RECORD_BYTES,
    SKEW_S,
    Refusal,
    Refused,
    check_current,
    network_tag,
    read_record,
    sign_record,
)
from aitorrentd.api import InvalidParams, pack
from aitorrentd.api.fields import MAX_EXACT
from aitorrentd.api.network.addresses import host_port, parse_address
from tests.support.discovery.records import GLOBAL, NOW, TAG, fields, peer, raw, record, signed
from tests.support.transport.transport_nodes import Identity


def is_address(text: str) -> bool:
    """Whether it can be dialled: an IPv6 address may stand for an IPv4 one that cannot."""
    try:
        return bool(parse_address(text))
    except InvalidParams:
        return False


ADDRESSES = st.builds(
    lambda ip, port: host_port(str(ip), port), st.ip_addresses(), st.integers(1, 65_535)
).filter(is_address)


@given(
    listed=st.lists(ADDRESSES, max_size=20),
    sequence=st.integers(1, int(NOW * 1000)),
    capabilities=st.lists(st.sampled_from(["relay", "dht"]), max_size=3),
)
def test_record_reads_back_as_it_was_signed(
    listed: list[str], sequence: int, capabilities: list[str]
) -> None:
    made = sign_record(
        Identity("a"), "net", listed, sequence=sequence, now=NOW, capabilities=capabilities
    )
    assert read_record(made.raw) == made
    assert len(made.raw) <= MAX_RECORD_BYTES
    assert (made.peer, made.sequence, made.network) == (peer("a"), sequence, network_tag("net"))
    assert made.capabilities == tuple(capabilities)
    assert len(made.addresses) <= MAX_ADDRESSES
    assert all(address.peer == peer("a") for address in made.addresses)


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_and_nothing_else_happens(junk: bytes) -> None:
    with pytest.raises(Refused):
        read_record(junk)


@given(at=st.integers(0, len(raw("a")) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(at: int, bit: int) -> None:
    forged = bytearray(raw("a"))
    forged[at] ^= 1 << bit
    with pytest.raises(Refused) as refused:
        read_record(bytes(forged))
    assert refused.value.reason.is_fault


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"v": 2}, Refusal.MALFORMED),
        ({"key": b"short"}, Refusal.MALFORMED),
        ({"seq": 0}, Refusal.MALFORMED),
        ({"seq": True}, Refusal.MALFORMED),
        ({"seq": "1"}, Refusal.MALFORMED),
        ({"expires": int(NOW) - 1}, Refusal.MALFORMED),
        ({"expires": int(NOW) + 30 * 24 * 3600}, Refusal.MALFORMED),
        ({"net": b""}, Refusal.MALFORMED),
        ({"addresses": "8.8.8.8:1"}, Refusal.MALFORMED),
        ({"addresses": [GLOBAL] * (MAX_ADDRESSES + 1)}, Refusal.MALFORMED),
        ({"addresses": [7]}, Refusal.MALFORMED),
        ({"addresses": ["x" * 500]}, Refusal.MALFORMED),
        ({"caps": ["a\x1b[2J"]}, Refusal.MALFORMED),
        ({"key": Identity("b").public_key}, Refusal.FORGED),
    ],
)
def test_signed_nonsense_is_refused(changes: dict[str, object], reason: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        read_record(raw("a", **changes))
    assert refused.value.reason is reason


def test_record_over_two_kib_is_refused_unread() -> None:
    with pytest.raises(Refused) as refused:
        read_record(b"\0" * (MAX_RECORD_BYTES + 1))
    assert refused.value.reason is Refusal.TOO_LONG


def test_thousand_addresses_are_refused() -> None:
    many = [f"/ip4/8.8.{i // 256}.{i % 256}/tcp/1" for i in range(1000)]
    for body in (pack(fields("a", addresses=many)), pack(fields("a", addresses=["a"] * 1000))):
        with pytest.raises(Refused) as refused:
            read_record(signed("a", body))
        assert refused.value.reason in (Refusal.TOO_LONG, Refusal.MALFORMED)


def test_future_sequence_is_refused_since_nothing_could_replace_it() -> None:
    with pytest.raises(Refused, match="sequence number from the future"):
        read_record(raw("a", seq=MAX_EXACT))


def test_own_record_leaves_out_the_last_addresses_when_it_would_be_too_long() -> None:
    names = [f"{'n' * 60}.{'m' * 60}.{'o' * 60}.{i}.example:8468" for i in range(16)]
    made = record("a", addresses=names)
    assert 0 < len(made.addresses) < 16
    assert made.addresses[0].host.endswith(".0.example")


def test_addresses_of_kinds_to_come_and_of_other_peers_are_left_out() -> None:
    listed = ["/ip4/8.8.4.4/udp/1/quic-v1", f"{GLOBAL}/p2p/{peer('b')}", GLOBAL, "garbage"]
    (address,) = read_record(raw("a", addresses=listed)).addresses
    assert str(address) == f"{GLOBAL}/p2p/{peer('a')}"


def test_record_of_another_network_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        check_current(record("a", network="other"), TAG, NOW, future_s=FUTURE_S)
    assert refused.value.reason is Refusal.FOREIGN


def test_expired_record_is_refused() -> None:
    old = record("a", now=NOW - 7200)
    with pytest.raises(Refused) as refused:
        check_current(old, TAG, NOW, future_s=FUTURE_S)
    assert refused.value.reason is Refusal.EXPIRED
    check_current(old, TAG, NOW - 1, future_s=FUTURE_S)


def test_record_from_the_future_is_refused_unless_its_own_node_hands_it_over() -> None:
    ahead = record("a", now=NOW + SKEW_S)
    with pytest.raises(Refused) as refused:
        check_current(ahead, TAG, NOW, future_s=FUTURE_S)
    assert refused.value.reason is Refusal.FUTURE
    check_current(ahead, TAG, NOW, future_s=SKEW_S)
    check_current(record("a", now=NOW + FUTURE_S), TAG, NOW, future_s=FUTURE_S)


def test_signature_of_another_purpose_does_not_count() -> None:
    body = pack(fields("a"))
    with pytest.raises(Refused) as refused:
        read_record(Identity("a").sign("aitd/dhcert/1", body) + body)
    assert refused.value.reason is Refusal.FORGED


def test_network_tag_does_not_tell_the_network() -> None:
    assert network_tag("a") != network_tag("b")
    assert b"secret-name" not in network_tag("secret-name")
