"""Datagrams: the same message after the wire, sizes as promised, nothing else gets through."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_dht.core.contact import contact_of
from aitorrent_dht.core.record import MAX_VALUE_BYTES
from aitorrent_dht.wire import codec as codec_module
from aitorrent_dht.wire.codec import Codec
from aitorrent_dht.wire.messages import (
    MAX_DATAGRAM_BYTES,
    REPLY_BYTES,
    Family,
    Query,
    Refusal,
    Reply,
    Request,
    node_bytes,
)
from aitorrentd.api import ProtocolError, pack, unpack_map
from tests.support.dht.wired import NETWORK, Wired

A, B, C = Wired(1), Wired(2), Wired(3)
TXID = b"t" * 16
TO = b"i" * 20
TOKEN = b"o" * 8

hosts = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda raw: socket.inet_ntop(socket.AF_INET, raw)),
    st.binary(min_size=16, max_size=16).map(lambda raw: socket.inet_ntop(socket.AF_INET6, raw)),
)
nodes = st.builds(contact_of, st.binary(min_size=32, max_size=32), hosts, st.integers(0, 65_535))
records = st.binary(max_size=MAX_VALUE_BYTES).map(lambda value: A.record(value=value))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    query = draw(st.sampled_from(Query))
    size = {Query.FIND: 20, Query.GET: 32}.get(query, 0)
    return Request(
        query,
        draw(st.binary(min_size=16, max_size=16)),
        A.key,
        to=TO,
        token=draw(st.sampled_from([b"", TOKEN])),
        is_client=draw(st.booleans()),
        want=draw(st.sampled_from([Family.IP4, Family.IP6, Family.IP4 | Family.IP6]))
        if size
        else Family.IP4,
        key=draw(st.binary(min_size=size, max_size=size)),
        have=tuple(draw(st.lists(st.binary(min_size=8, max_size=8), max_size=9)))
        if query is Query.GET
        else (),
        record=draw(records) if query is Query.STORE else None,
    )


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    named = draw(st.lists(nodes, max_size=20))
    named.sort(key=lambda n: ":" in n.host)
    return Reply(
        TXID,
        A.key,
        TO,
        token=TOKEN,
        is_client=draw(st.booleans()),
        invites=draw(st.booleans()),
        is_cut=draw(st.booleans()),
        has_more=draw(st.booleans()),
        nodes=tuple(named),
        records=tuple(draw(st.lists(records, max_size=1))),
        refusal=draw(st.sampled_from(Refusal)),
        observed=draw(st.none() | st.tuples(hosts, st.integers(0, 65_535))),
    )


@given(requests() | replies())
def test_message_is_the_same_after_the_wire(message: Request | Reply) -> None:
    raw = A.codec.encode(message)
    assert B.codec.decode(raw) == message
    assert B.codec.is_proven(raw)


@given(requests() | replies())
def test_proof_for_one_recipient_is_none_for_others_and_none_of_others(
    message: Request | Reply,
) -> None:
    signed, raw = A.codec.encode(message), A.codec.encode(message, recipient=B.key)
    assert len(raw) == len(signed) - 48
    assert B.codec.decode(raw) == message
    assert B.codec.is_proven(raw)
    assert not C.codec.is_proven(raw)
    assert not A.codec.is_proven(raw), "sent back to its sender"
    reflected = raw.replace(A.key, B.key, 1)
    assert not A.codec.is_proven(reflected), "as if the recipient had sent it"
    assert not B.codec.is_proven(reflected)
    elsewhere = Wired(2, network=b"\x01" * 32).codec
    assert not elsewhere.is_proven(raw)


def test_key_that_nobody_can_have_proves_nothing() -> None:
    for key in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32):
        raw = A.codec.encode(Request(Query.PING, TXID, key, to=TO), recipient=B.key)
        assert not B.codec.is_proven(raw)
        # To such a key, messages are signed.
        assert B.codec.is_proven(A.codec.encode(Request(Query.PING, TXID, A.key), recipient=key))


@given(replies())
def test_answer_takes_no_more_than_its_parts_are_said_to(reply: Reply) -> None:
    room = sum(map(node_bytes, reply.nodes)) + sum(r.size_bytes for r in reply.records)
    assert len(A.codec.encode(reply)) <= REPLY_BYTES + room


def test_longest_parts_of_an_answer_are_counted() -> None:
    named = [contact_of(bytes(32), host, 0) for host in ["192.0.2.1"] * 9 + ["2001:db8::1"] * 9]
    reply = Reply(
        TXID, A.key, TO, token=TOKEN, nodes=tuple(named), observed=(":".join(["1000"] * 8), 65_535)
    )
    room = sum(map(node_bytes, reply.nodes))
    assert len(A.codec.encode(reply)) <= REPLY_BYTES + room


@given(requests())
def test_padded_request_leaves_room_for_a_small_answer(request: Request) -> None:
    assert REPLY_BYTES <= len(A.codec.encode(request, REPLY_BYTES)) <= MAX_DATAGRAM_BYTES


def test_largest_answer_fits_a_datagram() -> None:
    many = tuple(contact_of(bytes([i]) * 32, f"2a00::{i:x}", 65_535) for i in range(1, 19))
    reply = Reply(TXID, A.key, TO, token=TOKEN, nodes=many, observed=("2a00::1", 65_535))
    assert len(A.codec.encode(reply)) <= MAX_DATAGRAM_BYTES
    full = Reply(TXID, A.key, TO, token=TOKEN, records=(A.record(value=b"x" * MAX_VALUE_BYTES),))
    assert len(A.codec.encode(full)) <= MAX_DATAGRAM_BYTES
    ask = Request(
        Query.STORE, TXID, A.key, TO, TOKEN, record=A.record(value=b"x" * MAX_VALUE_BYTES)
    )
    assert len(A.codec.encode(ask)) <= MAX_DATAGRAM_BYTES


@given(st.binary(max_size=MAX_DATAGRAM_BYTES + 50))
def test_random_bytes_are_ignored(raw: bytes) -> None:
    assert B.receive(raw, ("8.8.8.8", 9)) == []


@given(st.binary(max_size=MAX_DATAGRAM_BYTES - 106), st.integers(0, 65_535), st.booleans())
def test_random_bytes_after_a_right_head_are_ignored(
    body: bytes, length: int, is_paired: bool
) -> None:
    if is_paired:
        fields = codec_module.PAIR_MAGIC, B.codec.tag, A.key, bytes(16), length
        head = codec_module._PAIR_HEAD.pack(*fields)
    else:
        head = codec_module._HEAD.pack(codec_module.MAGIC, B.codec.tag, A.key, bytes(64), length)
    with contextlib.suppress(ProtocolError):
        B.codec.decode(head + body)
    assert B.receive(head + body, ("8.8.8.8", 9)) == []


@given(requests(), st.booleans(), st.data())
def test_any_flipped_bit_but_in_the_padding_is_noticed(
    request: Request, is_paired: bool, data: st.DataObject
) -> None:
    raw = bytearray(A.codec.encode(request, recipient=B.key if is_paired else b""))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert B.gate.admit(bytes(raw), "8.8.8.8", 9, 1e9) is None


def test_every_truncation_is_noticed() -> None:
    raw = A.codec.encode(Request(Query.FIND, TXID, A.key, to=TO, key=TO))
    paired = A.codec.encode(Request(Query.FIND, TXID, A.key, to=TO, key=TO), recipient=B.key)
    for whole in (raw, paired):
        for end in range(len(whole)):
            assert B.gate.admit(whole[:end], "8.8.8.8", 9, 1e9) is None


def test_message_of_another_network_or_without_its_secret_is_not_valid() -> None:
    other = Wired(3, network=b"\x01" * 32)
    raw = other.codec.encode(Request(Query.PING, TXID, other.key))
    assert A.receive(raw, ("8.8.8.8", 9)) == []
    assert A.gate.dropped["foreign"] == 1
    # The tag is no secret: with it set, the signature does not fit.
    forged = raw[:4] + A.codec.tag + raw[8:]
    assert A.receive(forged, ("8.8.8.8", 9)) == []
    assert A.gate.dropped["unsigned"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("q", 4), ("q", -1), ("q", "find"), ("q", None),
        ("i", b"short"), ("i", b"x" * 17), ("i", 7),
        ("to", b"x" * 19), ("to", b"x" * 21), ("to", 20), ("to", b""),
        ("o", b"x" * 9), ("o", "text"),
        ("c", 1), ("w", 4), ("w", True),
        ("k", b"x" * 19), ("k", 12345678901234567890), ("k", b""), ("k", None),
    ],
)  # fmt: skip
def test_malformed_request_is_a_protocol_error(field: str, value: Any) -> None:
    fields = codec_module._request_map(Request(Query.FIND, TXID, A.key, to=TO, key=TO))
    fields[field] = value
    with pytest.raises(ProtocolError, match=r"must|only a ping"):
        A.codec.decode(framed(fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 9), ("r", None), ("i", b""), ("to", b""), ("o", b"x" * 9), ("c", None),
        ("n", 0), ("u", "no"), ("m", 2), ("4", b"x" * 37), ("4", b"x" * 38 * 21), ("4", []),
        ("6", b"x" * 51), ("v", {}), ("v", [1]), ("v", [{}] * 9), ("a", 7), ("a", "x" * 50),
        ("p", -1), ("p", 1 << 20),
    ],
)  # fmt: skip
def test_malformed_answer_is_a_protocol_error(field: str, value: Any) -> None:
    fields = codec_module._reply_map(Reply(TXID, A.key, TO, TOKEN, observed=("8.8.8.8", 1)))
    fields[field] = value
    with pytest.raises(ProtocolError, match="must"):
        A.codec.decode(framed(fields))


def framed(fields: dict[str, Any]) -> bytes:
    body = pack(fields)
    head = codec_module._HEAD.pack(codec_module.MAGIC, A.codec.tag, A.key, bytes(64), len(body))
    return head + body


def test_addresses_are_packed_as_the_system_does() -> None:
    reply = Reply(TXID, A.key, TO, nodes=(contact_of(B.key, "2a00::1", 258),))
    body = A.codec.encode(reply)[codec_module._HEAD.size :]
    assert unpack_map(body)["6"] == B.key + ipaddress.ip_address("2a00::1").packed + b"\x01\x02"


def test_network_is_told_apart_by_its_key() -> None:
    assert Codec(NETWORK, A.sign, lambda *_: True, A.agree).tag == A.codec.tag
    assert Codec(bytes(32), A.sign, lambda *_: True, A.agree).tag != A.codec.tag
