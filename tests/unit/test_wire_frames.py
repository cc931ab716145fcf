"""Frames and msgpack from strangers: a value, or ProtocolError, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrentd.errors import ProtocolError, TooLarge, error_from_map
from aitorrentd.wire import check_length, decode_frame, encode_frame, pack, unpack, unpack_map
from tests.support.effort import examples

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary()
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4)
)


@settings(max_examples=examples(200))
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5), st.binary(max_size=300))
def test_frame_survives_the_round_trip(header: dict[str, object], tail: bytes) -> None:
    raw = encode_frame(header, tail)
    assert int.from_bytes(raw[:4], "big") == len(raw) - 4
    frame = decode_frame(raw[4:])
    assert frame.header == header
    assert bytes(frame.tail) == tail


@settings(max_examples=examples(300))
@given(st.binary(max_size=400))
def test_random_bytes_are_a_frame_or_a_protocol_error(raw: bytes) -> None:
    try:
        frame = decode_frame(raw)
    except ProtocolError:
        return
    assert isinstance(frame.header, dict)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        unpack(b"\x91" * 100_000 + b"\xc0")


def test_forged_length_is_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        unpack(b"\xdd\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        unpack(b"\xc6\xff\xff\xff\xff")


def test_extension_types_are_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        unpack(b"\xc7\x01\x05\x00")


def test_map_with_other_keys_is_refused() -> None:
    with pytest.raises(ProtocolError, match="text keys"):
        unpack_map(pack({1: 2}))
    with pytest.raises(ProtocolError, match="text keys"):
        unpack_map(pack([1]))


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(ProtocolError, match="invalid msgpack"):
        unpack(pack(1) + b"\x01")


@pytest.mark.parametrize("length", [0, 1, 101, 2**32 - 1])
def test_length_is_checked_before_reading(length: int) -> None:
    with pytest.raises(ProtocolError, match="allowed are 2 to 100"):
        check_length(length, 100)


def test_header_has_a_limit() -> None:
    with pytest.raises(TooLarge, match="limit is 65535"):
        encode_frame({"x": "y" * 70_000})


def test_error_from_a_stranger_is_bounded() -> None:
    error = error_from_map({"code": "busy", "message": "x" * 10_000, "data": 7})
    assert error.code == "busy"
    assert len(error.message) == 4096
    assert error.data == {}
    assert isinstance(error_from_map([]), ProtocolError)
