from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from aitorrentd.control import framing
from aitorrentd.control.framing import FrameSplitter, decode, encode
from aitorrentd.errors import ProtocolError, TooLarge
from tests.support.effort import examples

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Point(BaseModel):
    x: int


@dataclass(frozen=True)
class Pair:
    left: int
    right: str


@given(json_like)
@settings(max_examples=examples(150))
def test_what_is_encoded_is_decoded(value: Any) -> None:
    frame = encode(framing.RESULT, 7, value)
    assert struct.unpack(">I", frame[:4])[0] == len(frame) - 4
    assert decode(frame[4:]) == [framing.RESULT, 7, value]


@given(st.binary(max_size=400))
@settings(max_examples=examples(200))
def test_random_bodies_decode_or_raise_protocol_error(body: bytes) -> None:
    try:
        message = decode(body)
    except ProtocolError:
        return
    assert type(message[0]) is int


@given(st.lists(json_like, min_size=1, max_size=5), st.data())
@settings(max_examples=examples(100))
def test_frames_survive_any_fragmentation(values: list[Any], data: st.DataObject) -> None:
    stream = b"".join(encode(framing.RESULT, 1, value) for value in values)
    splitter = FrameSplitter(framing.MAX_FRAME_BYTES)
    found = []
    while stream:
        n = data.draw(st.integers(1, len(stream)))
        splitter.feed(stream[:n])
        stream = stream[n:]
        while (body := splitter.take()) is not None:
            found.append(decode(body)[2])
    assert found == values
    assert splitter.is_empty


@given(st.binary(max_size=100), st.integers(1, 64))
@settings(max_examples=examples(150))
def test_a_splitter_keeps_no_frame_beyond_its_limit(raw: bytes, limit: int) -> None:
    splitter = FrameSplitter(limit)
    splitter.feed(raw)
    try:
        while (body := splitter.take()) is not None:
            assert 1 <= len(body) <= limit
    except (ProtocolError, TooLarge):
        return
    assert len(splitter._buffer) < 4 + limit


def test_a_forged_length_is_refused_before_its_bytes_arrive() -> None:
    splitter = FrameSplitter(64 * 1024)
    splitter.feed(b"\xff\xff\xff\xff")
    with pytest.raises(TooLarge, match="frame of 4294967295 bytes; the limit here is 65536"):
        splitter.take()


def test_an_empty_frame_is_refused() -> None:
    splitter = FrameSplitter(64)
    splitter.feed(b"\0\0\0\0")
    with pytest.raises(ProtocolError, match="empty frame"):
        splitter.take()


@pytest.mark.parametrize("value", [{}, [], ["hello"], [True], [None], 5, b"x", [1.0]])
def test_a_frame_that_does_not_start_with_a_kind_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError, match="array that starts with its kind"):
        decode(msgpack.packb(value))


def test_nesting_is_limited_to_64_levels() -> None:
    def nested(levels: int) -> bytes:
        value: Any = 1
        for _ in range(levels):
            value = [value]
        packed: bytes = msgpack.packb([framing.CALL, value])
        return packed

    assert decode(nested(63))[0] == framing.CALL
    with pytest.raises(ProtocolError, match="nested deeper than 64"):
        decode(nested(64))
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        decode(b"\x91" * 100_000 + b"\x01")


@pytest.mark.parametrize("part", [b"\x90", b"\x80", b"\x01", b"\xa1a"])
def test_a_frame_of_millions_of_small_parts_is_refused(part: bytes) -> None:
    row = b"\xdc\xff\xff" + part * 65_535
    body = b"\x92\x01" + b"\x9f" + row * 15
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        decode(body)


def test_a_large_frame_of_few_parts_is_taken() -> None:
    value = {"blob": b"x" * 10_000_000, "many": list(range(60_000))}
    assert decode(encode(framing.CALL, 1, "a.b", value)[4:])[3] == value


def test_array_lengths_that_lie_are_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        decode(b"\xdd\xff\xff\xff\xff\x01")
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        decode(b"\xdf\xff\xff\xff\xff\x01")


def test_models_dataclasses_sets_and_paths_can_travel() -> None:
    value = {"m": Point(x=1), "d": Pair(1, "r"), "s": {3, 1}, "p": Path("/a"), "t": (1, 2)}
    assert decode(encode(framing.RESULT, 1, value)[4:])[2] == {
        "m": {"x": 1},
        "d": {"left": 1, "right": "r"},
        "s": [1, 3],
        "p": "/a",
        "t": [1, 2],
    }


def test_what_cannot_travel_is_an_error() -> None:
    with pytest.raises(TypeError, match="a object cannot be sent"):
        encode(framing.RESULT, 1, object())
    with pytest.raises(TooLarge, match="the limit is 16777216"):
        encode(framing.RESULT, 1, b"x" * framing.MAX_FRAME_BYTES)


@pytest.mark.parametrize(
    ("offer", "expected"),
    [([1, 1], 1), ([1, 9], 1), ([0, 1], 1), ([2, 9], None), ([0, 0], None), ([3, 2], None)],
)
def test_the_highest_common_protocol_is_chosen(offer: list[int], expected: int | None) -> None:
    assert framing.common_proto({"proto": offer}) == expected


@pytest.mark.parametrize("hello", [None, 5, {}, {"proto": 1}, {"proto": [1]}, {"proto": ["1", 1]}])
def test_a_hello_without_versions_is_refused(hello: Any) -> None:
    with pytest.raises(ProtocolError, match="proto"):
        framing.common_proto(hello)


@pytest.mark.parametrize("value", [0, -1, 2**32, True, "1", 1.0, None])
def test_ids_are_numbers_from_1_to_32_bits(value: Any) -> None:
    assert not framing.is_id(value)
    assert framing.is_id(1)
    assert framing.is_id(2**32 - 1)
