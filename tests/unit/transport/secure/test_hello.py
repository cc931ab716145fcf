"""Handshake payloads from strangers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.secure.hello import Hello
from aitorrentd.api import ProtocolError, pack, unpack_map
from tests.support.effort import examples

HELLO = Hello(
    identity=b"i" * 32,
    not_before=1,
    expires=2,
    certificate=b"c" * 64,
    signature=b"s" * 64,
    version=1,
    agent="agent/1",
    seen=("203.0.113.1", 8468),
    capabilities=("aes256gcm",),
)


def test_hello_survives_its_encoding() -> None:
    assert Hello.decode(HELLO.encode()) == HELLO


def test_unknown_keys_and_capabilities_are_ignored() -> None:
    fields = unpack_map(HELLO.encode())
    fields["later"] = {"more": [1, 2]}
    fields["caps"] = ["telepathy"]
    assert Hello.decode(pack(fields)).capabilities == ("telepathy",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", b"i" * 31),
        ("id", "i" * 32),
        ("id", None),
        ("nbf", -1),
        ("nbf", True),
        ("exp", 2**63),
        ("exp", 1.5),
        ("cert", b""),
        ("sig", b"s" * 65),
        ("v", 256),
        ("agent", "a" * 65),
        ("agent", "bell\a"),
        ("agent", 5),
        ("seen", "203.0.113.1"),
        ("seen", ["203.0.113.1"]),
        ("seen", ["203.0.113.1", 65_536]),
        ("seen", ["h" * 65, 1]),
        ("seen", [1, 1]),
        ("caps", {}),
        ("caps", [1]),
        ("caps", ["c" * 33]),
        ("caps", ["c"] * 33),
        ("inst", b"i" * 9),
        ("mss", -1),
        ("mss", 65_536),
        ("mss", "1160"),
    ],
)
def test_wrong_field_is_refused(field: str, value: object) -> None:
    fields = unpack_map(HELLO.encode())
    fields[field] = value
    with pytest.raises(ProtocolError, match=f"payload: {field} must|msgpack"):
        Hello.decode(pack(fields))


_FIELDS = st.sampled_from(
    ["id", "nbf", "exp", "cert", "sig", "v", "agent", "seen", "caps", "inst", "mss"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(200))
@given(st.binary(max_size=300))
def test_any_bytes_are_a_hello_or_a_protocol_error(payload: bytes) -> None:
    _decode(payload)


@settings(max_examples=examples(200))
@given(st.dictionaries(_FIELDS, _VALUES))
def test_any_map_is_a_hello_or_a_protocol_error(changes: dict[str, Any]) -> None:
    _decode(pack({**unpack_map(HELLO.encode()), **changes}))


@settings(max_examples=examples(200))
@given(st.integers(0, len(HELLO.encode()) - 1), st.integers(0, 255))
def test_any_changed_byte_is_a_hello_or_a_protocol_error(at: int, value: int) -> None:
    payload = bytearray(HELLO.encode())
    payload[at] = value
    _decode(bytes(payload))


def _decode(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(Hello.decode(payload), Hello)
