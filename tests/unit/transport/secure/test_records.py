"""Records: what a man in the middle may do to them, and what they cost."""

from __future__ import annotations

import hmac
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.secure.noise import CipherState
from aitorrent_transport.secure.records import (
    CLOSE,
    DATA,
    MAX_COUNTER,
    MAX_PLAINTEXT,
    READ_BUFFER_BYTES,
    WRITE_BUFFER_BYTES,
    RecordReader,
    RecordWriter,
)
from aitorrent_transport.secure.suites import AES, CHACHA, Suite, aes_in_hardware, choose
from aitorrentd.api import ProtocolError, TooLarge
from tests.support.effort import examples

KEY = bytes(range(32))
suites = pytest.mark.parametrize("suite", [CHACHA, AES], ids=lambda s: s.name)


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def _pair(
    suite: Suite = CHACHA, *, counter: int = 0, in_place: bool = True, clock: Clock | None = None
) -> tuple[RecordWriter, RecordReader]:
    writer = RecordWriter(CipherState(KEY, counter), suite, in_place=in_place)
    reader = RecordReader(CipherState(KEY, counter), clock or Clock(), suite, in_place=in_place)
    return writer, reader


def _seal(writer: RecordWriter, *parts: bytes, kind: int = DATA) -> bytes:
    writer.seal(parts, kind)
    return bytes(writer.take())


def _rekey(writer: RecordWriter) -> bytes:
    writer.rekey()
    return bytes(writer.take())


def _feed(reader: RecordReader, wire: bytes) -> list[tuple[int, bytes]]:
    """Everything that arrives, in as many reads as it takes."""
    records = []
    while True:
        while (record := reader.next()) is not None:
            records.append((record.kind, bytes(record.payload)))
        if not wire:
            return records
        space = reader.space()
        n = min(len(space), len(wire))
        assert n > 0
        space[:n] = wire[:n]
        reader.feed(n)
        wire = wire[n:]


@suites
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "allocating"])
def test_records_survive_the_way(suite: Suite, in_place: bool) -> None:
    writer, reader = _pair(suite, in_place=in_place)
    payloads = [b"", b"x", bytes(1024), random.Random(1).randbytes(MAX_PLAINTEXT)] * 5
    wire = b"".join(_seal(writer, p[: len(p) // 2], p[len(p) // 2 :]) for p in payloads)
    wire += _seal(writer, b"bye", kind=CLOSE)
    assert _feed(reader, wire) == [*((DATA, p) for p in payloads), (CLOSE, b"bye")]
    assert reader.buffered == 0


@settings(max_examples=examples(50))
@given(st.lists(st.integers(0, MAX_PLAINTEXT), max_size=8), st.integers())
def test_records_survive_any_cutting_into_reads(sizes: list[int], seed: int) -> None:
    draw = random.Random(seed)
    writer, reader = _pair(AES)
    payloads = [draw.randbytes(n) for n in sizes]
    wire = b"".join(_seal(writer, p) for p in payloads)
    got = []
    while wire:
        n = draw.choice((1, 3, 1000, 70_000, 300_000))
        got += _feed(reader, wire[:n])
        wire = wire[n:]
    assert [p for _, p in got] == payloads


def test_records_on_the_wire_are_what_the_documentation_says() -> None:
    """Built here from the primitives alone, so that another implementation can follow."""
    aes_key = hmac.digest(KEY, b"aitorrentd/1 records aes256gcm", "sha256")
    for suite, aead, order in (
        (CHACHA, ChaCha20Poly1305(KEY), "little"),
        (AES, AESGCM(aes_key), "big"),
    ):
        writer, _ = _pair(suite, counter=7)
        for counter in (7, 8):
            nonce = bytes(4) + counter.to_bytes(8, order)  # type: ignore[arg-type]
            head = (1 + 5 + 16).to_bytes(4, "big")
            assert _seal(writer, b"he", b"llo") == head + aead.encrypt(nonce, b"\0hello", head)
        last = bytes(4) + b"\xff" * 8
        _rekey(writer)
        changed = type(aead)(aead.encrypt(last, bytes(32), b"")[:32])
        nonce = bytes(4) + (10).to_bytes(8, order)  # type: ignore[arg-type]
        assert _seal(writer, b"hello") == head + changed.encrypt(nonce, b"\0hello", head)


@settings(max_examples=examples(60))
@given(
    st.lists(st.tuples(st.integers(0, MAX_PLAINTEXT), st.sampled_from("-tr")), max_size=12),
    st.integers(),
    st.booleans(),
)
def test_what_was_taken_stays_until_it_has_left(
    steps: list[tuple[int, str]], seed: int, in_place: bool
) -> None:
    """Records are sealed beside others that still wait in the socket's queue."""
    draw = random.Random(seed)
    writer = RecordWriter(CipherState(KEY), AES, buffer_bytes=150_000, in_place=in_place)
    reader = RecordReader(CipherState(KEY), Clock(), AES)
    payloads, got, waiting = [], [], []
    for size, then in steps:
        payloads.append(draw.randbytes(size))
        writer.seal((payloads[-1],))
        if then != "-":
            waiting.append(writer.take())
        if then == "r":
            got += _feed(reader, b"".join(waiting))
            waiting.clear()
            writer.reuse()
    got += _feed(reader, b"".join([*waiting, writer.take()]))
    assert [p for _, p in got] == payloads
    assert writer.gathered == 0


def test_memory_that_records_left_is_used_again() -> None:
    writer, reader = _pair()
    for _ in range(50):
        _feed(reader, _seal(writer, bytes(60_000)))
        writer.reuse()
    assert len(writer._buffer) == WRITE_BUFFER_BYTES
    assert writer._end == 0


def test_too_large_record_is_not_sent() -> None:
    writer, reader = _pair()
    with pytest.raises(TooLarge, match="65537 bytes; the limit is 65536"):
        writer.seal((bytes(MAX_PLAINTEXT), b"x"))
    assert _feed(reader, _seal(writer, b"still works")) == [(DATA, b"still works")]


@suites
def test_replayed_record_is_refused(suite: Suite) -> None:
    writer, reader = _pair(suite)
    first = _seal(writer, b"pay 5")
    assert _feed(reader, first) == [(DATA, b"pay 5")]
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(reader, first)


@suites
def test_swapped_records_are_refused(suite: Suite) -> None:
    writer, reader = _pair(suite)
    first, second = _seal(writer, b"one"), _seal(writer, b"two")
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(reader, second + first)


def test_dropped_record_is_noticed_with_the_next() -> None:
    writer, reader = _pair()
    _seal(writer, b"lost")
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(reader, _seal(writer, b"next"))


def test_truncated_record_gives_nothing_and_then_breaks() -> None:
    writer, reader = _pair()
    record, following = _seal(writer, b"0123456789"), _seal(writer, b"next")
    assert _feed(reader, record[:-1]) == []
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(reader, following)


@suites
def test_every_bit_flip_in_a_record_is_noticed(suite: Suite) -> None:
    wire = _seal(_pair(suite)[0], b"four") + bytes(2**17)
    for at in range(4 + 1 + 4 + 16):
        for bit in range(8):
            changed = bytearray(wire)
            changed[at] ^= 1 << bit
            with pytest.raises(ProtocolError, match="authentication|a record of"):
                _feed(_pair(suite)[1], bytes(changed))


def test_record_of_the_other_direction_is_refused() -> None:
    """Reflection: each direction has its own key."""
    writer = RecordWriter(CipherState(bytes(32)))
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(_pair()[1], _seal(writer, b"mine"))


@pytest.mark.parametrize("length", [0, 16, 1 + MAX_PLAINTEXT + 16 + 1, 2**32 - 1])
def test_impossible_length_is_refused_before_its_bytes_arrive(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"a record of {length} bytes"):
        _feed(_pair()[1], length.to_bytes(4, "big"))


def test_unknown_kind_is_refused() -> None:
    writer, reader = _pair()
    with pytest.raises(ProtocolError, match="unknown kind 99"):
        _feed(reader, _seal(writer, b"?", kind=99))


def test_counter_never_passes_its_guard() -> None:
    writer, reader = _pair(counter=MAX_COUNTER - 1)
    assert _feed(reader, _seal(writer, b"last")) == [(DATA, b"last")]
    with pytest.raises(ProtocolError, match="exhausted its record numbers"):
        writer.seal((b"one too many",))
    with pytest.raises(ProtocolError, match="peer has exhausted its record numbers"):
        _feed(reader, bytes.fromhex("00000011") + bytes(17))


@suites
def test_rekey_changes_the_key_and_keeps_the_order(suite: Suite) -> None:
    clock = Clock()
    writer, reader = _pair(suite, clock=clock)
    before = _seal(writer, b"before")
    wire = before + _rekey(writer) + _seal(writer, b"after")
    assert _feed(reader, wire) == [(DATA, b"before"), (DATA, b"after")]
    old = RecordReader(CipherState(KEY, 2), clock, suite)
    again = RecordWriter(CipherState(KEY, 0), suite)
    _seal(again)
    _rekey(again)
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(old, _seal(again, b"under the new key"))


def test_rekey_is_due_after_so_many_records() -> None:
    writer = RecordWriter(CipherState(KEY), rekey_after=3)
    for _ in range(3):
        assert not writer.rekey_due
        writer.seal(())
    assert writer.rekey_due
    writer.rekey()
    assert not writer.rekey_due
    assert writer.rekeys == 1


def test_rekey_storm_is_refused() -> None:
    clock = Clock()
    writer, reader = _pair(clock=clock)
    for _ in range(3):
        _feed(reader, _rekey(writer))
        clock.now += 1.0
    _feed(reader, _rekey(writer))
    clock.now += 0.9
    with pytest.raises(ProtocolError, match="rekeys too often"):
        _feed(reader, _rekey(writer))


def test_rekey_record_with_content_is_refused() -> None:
    writer, reader = _pair()
    with pytest.raises(ProtocolError, match="rekeys too often"):
        _feed(reader, _seal(writer, b"x", kind=1))


def test_read_buffer_does_not_grow() -> None:
    writer, reader = _pair()
    _feed(reader, b"".join(_seal(writer, bytes(60_000)) for _ in range(20)))
    assert len(reader.space()) == READ_BUFFER_BYTES


@settings(max_examples=examples(200))
@given(st.binary(max_size=400))
def test_any_bytes_give_nothing_or_a_protocol_error(wire: bytes) -> None:
    try:
        assert _feed(_pair()[1], wire) == []
    except ProtocolError as e:
        assert e.message


@suites
def test_keys_of_different_suites_differ(suite: Suite) -> None:
    other = AES if suite is CHACHA else CHACHA
    writer, _ = _pair(suite)
    reader = RecordReader(CipherState(KEY), Clock(), other)
    with pytest.raises(ProtocolError, match="failed authentication"):
        _feed(reader, _seal(writer, b"x"))
    assert suite.first_key(KEY) != other.first_key(KEY)
    assert suite.next_key(KEY) != other.next_key(KEY)


def test_aes_needs_both_sides() -> None:
    assert choose((AES.name,), (AES.name, "more")) is AES
    assert choose((AES.name,), ()) is CHACHA
    assert choose((), (AES.name,)) is CHACHA
    assert isinstance(aes_in_hardware(), bool)


def test_writer_and_reader_need_a_key() -> None:
    with pytest.raises(RuntimeError, match="need a key"):
        RecordWriter(CipherState())
