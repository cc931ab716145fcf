"""WebSocket frames, against wsproto as the other side."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Ping
from wsproto.frame_protocol import XorMaskerSimple

from aitorrent_transport.links.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    WebSocketReader,
    websocket_frame,
    xor,
)
from aitorrentd.api import ProtocolError
from tests.support.effort import examples

sides = pytest.mark.parametrize("masked", [True, False], ids=["client", "server"])


def other(*, masked: bool) -> Connection:
    """wsproto as the side that masks, or as the one that does not."""
    return Connection(ConnectionType.CLIENT if masked else ConnectionType.SERVER)


def opened(reader: WebSocketReader, wire: bytes, cuts: random.Random) -> list[tuple[int, bytes]]:
    found = []
    while wire:
        n = cuts.choice((1, 2, 7, 1000, 100_000))
        found += [(opcode, bytes(payload)) for opcode, payload in reader.feed(wire[:n])]
        wire = wire[n:]
    return found


@sides
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 600_000])
def test_wsproto_reads_our_frames(masked: bool, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    peer = other(masked=not masked)
    peer.receive_data(b"".join(websocket_frame(BINARY, payload, masked=masked)))
    messages = [e for e in peer.events() if isinstance(e, BytesMessage)]
    assert b"".join(bytes(e.data) for e in messages) == payload
    assert messages[-1].message_finished
    peer.receive_data(b"".join(websocket_frame(PING, b"are you there", masked=masked)))
    assert [bytes(e.payload) for e in peer.events() if isinstance(e, Ping)] == [b"are you there"]


@settings(max_examples=examples(60))
@given(
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from([0, 1, 3, 125, 126, 5000, 65_535, 65_536]), st.booleans()),
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_frames_of_wsproto_arrive_however_they_are_cut(
    masked: bool, messages: list[tuple[int, bool]], draw: random.Random
) -> None:
    peer, wire, sent, pings = other(masked=masked), b"", b"", []
    for size, last in [*messages, (1, True)]:
        payload = draw.randbytes(size)
        sent += payload
        wire += peer.send(BytesMessage(payload, message_finished=last))
        pings.append(draw.randbytes(size % 126))
        wire += peer.send(Ping(pings[-1]))
    wire += peer.send(CloseConnection(code=1000))
    found = opened(WebSocketReader(masked=masked), wire, draw)
    assert b"".join(payload for opcode, payload in found if opcode == BINARY) == sent
    assert [payload for opcode, payload in found if opcode == PING] == pings
    assert found[-1] == (CLOSE, b"\x03\xe8")


@given(st.binary(max_size=70), st.binary(min_size=4, max_size=4))
def test_masks_are_those_of_the_standard(payload: bytes, key: bytes) -> None:
    assert xor(payload, key) == XorMaskerSimple(key).process(bytearray(payload))
    assert xor(xor(payload, key), key) == payload


def test_every_message_has_a_mask_of_its_own() -> None:
    heads = {websocket_frame(BINARY, bytes(10), masked=True)[0] for _ in range(20)}
    assert len(heads) == 20


BAD = {
    "a frame that begins with 0xc2": b"\xc2\x80",
    "a frame that begins with 0x81": b"\x81\x80",
    "a frame that begins with 0x83": b"\x83\x80",
    "a frame without a mask": b"\x82\x03",
    "control frame that is long": b"\x89\xfe",
    "control frame that is long or in parts": b"\x09\x80",
    "a continuation of nothing": b"\x80\x80",
    "a message within another": b"\x02\x80key!\x82\x80",
    "a length of 125 in 2 bytes": b"\x82\xfe\x00\x7dkey!",
    "a length of 65535 in 8 bytes": b"\x82\xff" + (65_535).to_bytes(8, "big") + b"key!",
    "a length of 9223372036854775808": b"\x82\xff\x80" + bytes(7) + b"key!",
}


@pytest.mark.parametrize("problem", BAD)
def test_broken_frames_are_refused(problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        opened(WebSocketReader(masked=True), BAD[problem], random.Random(1))


def test_masked_frames_from_a_server_are_refused() -> None:
    with pytest.raises(ProtocolError, match="a frame that is masked"):
        list(WebSocketReader(masked=False).feed(b"\x82\x80"))


@settings(max_examples=examples(300))
@given(st.binary(max_size=300), st.booleans(), st.randoms(use_true_random=False))
def test_any_bytes_are_taken_in_bounds_or_refused(
    wire: bytes, masked: bool, draw: random.Random
) -> None:
    reader = WebSocketReader(masked=masked)
    try:
        found = opened(reader, wire, draw)
    except ProtocolError:
        return
    assert all(opcode != CONTINUATION for opcode, _ in found)
    assert sum(len(payload) for _, payload in found) <= len(wire)
    assert len(reader._head) + len(reader._control or b"") <= 14 + 125
