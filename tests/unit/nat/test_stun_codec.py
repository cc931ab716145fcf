"""STUN messages on the wire: what is sent, and what of hostile bytes gets through."""

from __future__ import annotations

import contextlib
import struct

import pytest
from aioice import stun
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_nat.stun.codec import (
    MAX_BYTES,
    Request,
    Response,
    encode_refusal,
    encode_request,
    encode_response,
    new_transaction,
    read,
)
from aitorrentd.api import ProtocolError
from tests.support.effort import examples

TRANSACTION = bytes(range(12))
COOKIE = struct.pack("!I", 0x2112A442)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def raw(kind: int, *attributes: bytes, cookie: bytes = COOKIE, length: int | None = None) -> bytes:
    body = b"".join(attributes)
    size = len(body) if length is None else length
    return struct.pack("!HH", kind, size) + cookie + TRANSACTION + body


XOR_MAPPED = attribute(0x0020, bytes.fromhex("0001 a147 e112a643".replace(" ", "")))
"The example of RFC 5769, section 2.2: 192.0.2.1:32853."


def test_response_of_the_rfc_is_read() -> None:
    """RFC 5769, section 2.2, without the parts that need a password."""
    response = read(raw(0x0101, XOR_MAPPED))
    assert response == Response(TRANSACTION, mapped=("192.0.2.1", 32_853))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("change_ip", [False, True])
@pytest.mark.parametrize("response_port", [0, 4711])
def test_request_is_read_as_it_was_written_and_as_large_as_a_full_reply(
    version: int, change_ip: bool, response_port: int
) -> None:
    request = Request(new_transaction(), change_ip, not change_ip, response_port)
    host = "203.0.113.7" if version == 4 else "2001:db8::7"
    reply = Response(request.transaction, (host, 1), (host, 2), (host, 3))
    sent = encode_request(request, version=version)
    assert read(sent) == request
    assert len(sent) == len(encode_response(reply)) == (56 if version == 4 else 92)
    assert read(encode_response(reply)) == reply


def test_refusal_names_what_is_not_understood() -> None:
    sent = encode_refusal(TRANSACTION, (0x0003, 0x0026))
    assert read(sent) == Response(TRANSACTION, error=420)
    assert sent.endswith(attribute(0x000A, struct.pack("!HH", 3, 0x26)))
    assert stun.parse_message(sent).error_code == 420


def test_server_of_the_old_standard_is_recognised() -> None:
    place = bytes.fromhex("00010d96c0000201")
    reply = raw(0x0101, *(attribute(kind, place) for kind in (0x0001, 0x0004, 0x0005)))
    assert read(reply) == Response(TRANSACTION, mapped=("192.0.2.1", 3478), is_legacy=True)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "0 bytes"),
        (bytes(19), "19 bytes"),
        (bytes(MAX_BYTES + 4), "1236 bytes"),
        (raw(0x0101, XOR_MAPPED, cookie=bytes(4)), "RFC 5389 or later"),
        (raw(0x8101, XOR_MAPPED), "RFC 5389 or later"),
        (raw(0x0101, XOR_MAPPED, length=8), "another length"),
        (raw(0x0101, XOR_MAPPED, b"\0\0"), "another length"),
        (raw(0x0101, struct.pack("!HH", 0x8022, 9)), "beyond its message"),
        (raw(0x0101, XOR_MAPPED, XOR_MAPPED), "repeated or too many"),
        (raw(0x0101, *(attribute(0x9000 + n, b"") for n in range(17))), "repeated or too many"),
        (raw(0x0101, attribute(0x0020, bytes(4))), "of 4 bytes"),
        (raw(0x0101, attribute(0x0020, bytes(8))), "not a STUN message"),
        (raw(0x0001, attribute(0x0003, b"")), "of 0 bytes"),
        (raw(0x0101, XOR_MAPPED, attribute(0x8028, bytes(4))), "fingerprint"),
        (raw(0x0101), "without an address"),
        (raw(0x0101, XOR_MAPPED, attribute(0x0026, b"")), "unknown attribute 0x0026"),
        (raw(0x0101, attribute(0x0001, bytes.fromhex("00010d9600000000"))), "address 0.0.0.0"),
        (raw(0x0101, attribute(0x0001, bytes.fromhex("00010000c0000201"))), "port 0"),
        (raw(0x0101, attribute(0x0001, bytes.fromhex("00010001e0000001"))), "address 224.0.0.1"),
        (raw(0x0011, XOR_MAPPED), "indication"),
        (raw(0x0003), "method ALLOCATE"),
        (raw(0x0111, attribute(0x0009, b"\0\0\4\x14\xff")), "not a STUN message"),
        (raw(0x0FFF), "not a STUN message"),
    ],
)
def test_malformed_datagram_is_refused(datagram: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        read(datagram)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=examples(300))
def test_no_bytes_raise_anything_else(body: bytes, framed: bool) -> None:
    datagram = raw(0x0101, body[: len(body) // 4 * 4]) if framed else body
    with contextlib.suppress(ProtocolError):
        read(datagram)


@given(st.binary(min_size=4, max_size=4), st.integers(0, 80))
@settings(max_examples=examples(300))
def test_no_change_of_a_reply_raises_anything_else(noise: bytes, at: int) -> None:
    place = ("192.0.2.1", 4711)
    datagram = bytearray(encode_response(Response(TRANSACTION, place, place, place)))
    datagram[at : at + 4] = noise
    with contextlib.suppress(ProtocolError):
        read(bytes(datagram))
