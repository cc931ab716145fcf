"""Bloom filters: no false negatives, 1 % false positives, no saturation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_discovery.records.bloom import (
    HASHES,
    MAX_BYTES,
    MAX_FILL,
    MIN_BYTES,
    SALT_BYTES,
    Bloom,
    Generations,
    size_bytes,
)
from aitorrentd.api import ProtocolError

SALT = b"saltsalt"


def keys(n: int, kind: str = "k") -> list[bytes]:
    return [f"{kind}{i}".encode() for i in range(n)]


@given(st.sets(st.binary(max_size=60), max_size=300), st.binary(min_size=8, max_size=8))
def test_what_was_added_is_always_in(held: set[bytes], salt: bytes) -> None:
    bloom = Bloom.of(held, salt)
    again = Bloom.received(bloom.salt, bloom.bits)
    assert all(key in again for key in held)


@pytest.mark.parametrize("entries", [100, 1000, 3000])
def test_one_percent_of_absent_keys_seem_present(entries: int) -> None:
    bloom = Bloom.of(keys(entries), SALT)
    wrong = sum(key in bloom for key in keys(20_000, "absent"))
    assert 0.005 < wrong / 20_000 < 0.015
    assert HASHES == 7


def test_what_one_salt_hides_another_shows() -> None:
    one, other = Bloom.of(keys(1000), SALT), Bloom.of(keys(1000), b"otherone")
    hidden = [key for key in keys(20_000, "absent") if key in one]
    assert len(hidden) > 100
    assert sum(key in other for key in hidden) < len(hidden) / 10


def test_filter_grows_with_its_entries_within_the_limits() -> None:
    assert size_bytes(0) == MIN_BYTES
    assert size_bytes(1024) == 1227
    assert size_bytes(10**6) == MAX_BYTES


@given(st.integers(0, 3400))
def test_honest_filter_is_never_refused_as_saturated(entries: int) -> None:
    bloom = Bloom.of(keys(entries), SALT)
    assert Bloom.received(SALT, bloom.bits).fill < MAX_FILL


def test_saturated_filter_is_refused() -> None:
    with pytest.raises(ProtocolError, match="100% full"):
        Bloom.received(SALT, b"\xff" * 64)
    with pytest.raises(ProtocolError, match=r"75% full; at most 60%"):
        Bloom.received(SALT, b"\x77\xee" * 100)


@pytest.mark.parametrize("bits", [b"", b"\0" * (MIN_BYTES - 1), b"\0" * (MAX_BYTES + 1)])
def test_filter_of_another_size_is_refused(bits: bytes) -> None:
    with pytest.raises(ProtocolError, match="16 to 4096 bytes"):
        Bloom.received(SALT, bits)
    with pytest.raises(ProtocolError):
        Bloom.received(b"", b"\0" * 64)


def test_generations_forget_after_two_turns_and_never_fill() -> None:
    sent = Generations(100, 600.0, SALT, 0.0)
    sent.add(b"first", 0.0)
    assert sent.has(b"first", 599.0)
    assert sent.has(b"first", 1000.0), "the older generation still counts"
    assert not sent.has(b"first", 1700.0)
    for key in keys(10_000):
        sent.add(key, 1700.0)
    assert sent.has(keys(10_000)[-1], 1700.0)
    assert sum(sent.has(key, 1700.0) for key in keys(2000, "absent")) < 100


def test_generations_are_both_dropped_after_a_long_pause() -> None:
    sent = Generations(100, 600.0, SALT, 0.0)
    sent.add(b"first", 0.0)
    assert not sent.has(b"first", 5000.0)


def test_salt_has_the_size_of_the_protocol() -> None:
    assert len(SALT) == SALT_BYTES
