"""Storage that shares its swarms, without Redis: what is told, and what is heard."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_tracker.sharing import shared
from aitorrent_tracker.sharing.changes import (
    Batch,
    Change,
    Kind,
    Message,
    Value,
    hash_of,
    peers_key,
    read_message,
    read_value,
)
from aitorrent_tracker.sharing.shared import SharedStorage
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.swarms.storage import Announce, Counts, Event

HASH = b"h" * 20
ID = b"i" * 20
NOW = 1000.0
TTL_S = 1800.0


def storage(offset_s: float = 0.0, **limits: int) -> SharedStorage:
    memory = MemoryStorage(Limits(**limits), ttl_s=TTL_S, now=NOW, draw=lambda: 0.0)
    return SharedStorage(memory, offset_s)


def announce(port: int, event: Event = Event.NONE, *, is_seed: bool = False) -> Announce:
    return Announce(HASH, ID, b"\x08\x08\x08\x08", port, event, is_seed, 50)


def entry(port: int) -> bytes:
    return b"\x08\x08\x08\x08" + port.to_bytes(2, "big")


def message(batch: Batch, completed: int = 0) -> Message:
    raw = batch.arguments(b"12345678", 60, 10)[3]
    assert isinstance(raw, bytes)
    read = read_message(raw + completed.to_bytes(4, "big"))
    assert read is not None
    return read


def tell(one: SharedStorage, other: SharedStorage, now: float) -> None:
    for batch in list(one.take()):
        other.hear(message(batch, one.counts(batch.info_hash).completed), now)


def changes(batches: Iterable[Batch]) -> dict[bytes, Kind]:
    return {e: change.kind for batch in batches for e, change in batch.changes.items()}


def test_what_one_hears_the_other_gives_out() -> None:
    # Monotonic clocks differ between machines; offsets make up for that.
    one, other = storage(offset_s=500.0), storage(offset_s=100.0)
    one.announce(announce(1), NOW)
    one.announce(announce(2, Event.COMPLETED, is_seed=True), NOW)
    tell(one, other, NOW + 400)
    assert other.counts(HASH) == Counts(1, 1, 1)
    assert other.peer_id(HASH, entry(1)) == ID
    found = other.announce(announce(3), NOW + 401)
    assert {found.peers4[:6], found.peers4[6:]} == {entry(1), entry(2)}
    one.announce(announce(1, Event.STOPPED), NOW + 2)
    tell(one, other, NOW + 402)
    assert other.counts(HASH) == Counts(1, 1, 1)


def test_the_newest_word_on_a_peer_prevails_whoever_heard_it() -> None:
    one, other = storage(), storage()
    one.announce(announce(1), NOW)
    other.announce(announce(1, is_seed=True), NOW + 60)
    tell(one, other, NOW + 61)
    assert other.counts(HASH) == Counts(1, 0, 0)
    one.announce(announce(1, Event.STOPPED), NOW + 20)
    tell(one, other, NOW + 62)
    assert other.counts(HASH) == Counts(1, 0, 0)
    tell(other, one, NOW + 63)
    assert one.counts(HASH) == Counts(1, 0, 0)


def test_peer_that_another_heard_expires_with_its_last_announce() -> None:
    one, other = storage(), storage()
    one.announce(announce(1), NOW)
    tell(one, other, NOW + 1000)
    other.expire(NOW + TTL_S - 20)
    assert other.counts(HASH).leechers == 1
    other.expire(NOW + TTL_S + 30)
    assert other.counts(HASH).leechers == 0
    assert changes(other.take()) == {entry(1): Kind.GONE}


def test_peer_of_long_ago_and_one_of_the_future_are_as_old_as_they_can_be() -> None:
    one = storage()
    old = Change(Kind.SEEN, Value(False, 1, ID))
    one.learn(HASH, entry(1), old, NOW + TTL_S * 2)
    assert one.counts(HASH) == Counts(0, 0, 0)
    future = Change(Kind.SEEN, Value(False, 2**32 - 1, ID))
    one.learn(HASH, entry(1), future, NOW)
    one.expire(NOW + TTL_S + 30)
    assert one.counts(HASH) == Counts(0, 0, 0)


def test_limits_hold_for_peers_of_others() -> None:
    one = storage(peers_per_swarm=2, swarms=1)
    for port in (1, 2, 3):
        one.learn(HASH, entry(port), Change(Kind.SEEN, Value(False, int(NOW), ID)), NOW)
    one.learn(b"o" * 20, entry(1), Change(Kind.SEEN, Value(False, int(NOW), ID)), NOW)
    assert one.statistics()[:3] == (1, 0, 2)


def test_change_that_could_not_be_written_is_kept_and_what_happened_since_prevails() -> None:
    one = storage()
    one.announce(announce(1), NOW)
    one.announce(announce(1, Event.COMPLETED, is_seed=True), NOW)
    one.announce(announce(2), NOW)
    (batch,) = one.take()
    assert len(one) == 0
    one.announce(announce(1, Event.STOPPED), NOW + 1)
    one.give_back(batch)
    assert len(one) == 2
    # The download still counts, although its peer is gone.
    assert changes(one.take()) == {entry(1): Kind.GONE | Kind.COMPLETED, entry(2): Kind.SEEN}


def test_waiting_changes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "MAX_PENDING", 10)
    monkeypatch.setattr(shared, "MAX_IN_BATCH", 4)
    one = storage()
    for port in range(1, 26):
        one.announce(announce(port), NOW)
        assert len(one) <= 10
    sizes = [len(batch.changes) for batch in one.take()]
    assert sum(sizes) == 5 and max(sizes) <= 4
    # Whoever is still there is told when Redis is back.
    assert len(changes(one.everything())) == 25


def test_peer_that_was_not_stored_is_not_told() -> None:
    one = storage(peers_per_swarm=1)
    one.announce(announce(1), NOW)
    one.announce(announce(2), NOW)
    assert changes(one.take()) == {entry(1): Kind.SEEN}


def test_everything_has_the_peers_and_counters_of_each_swarm() -> None:
    one, other = storage(), storage()
    one.announce(announce(1), NOW)
    one.announce(announce(2, Event.COMPLETED, is_seed=True), NOW)
    (batch,) = one.everything()
    assert batch.least_completed == 1
    other.hear(message(batch, 1), NOW)
    assert other.counts(HASH) == one.counts(HASH) == Counts(1, 1, 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_none(raw: bytes) -> None:
    read = read_message(raw)
    assert read is None or all(len(entry) in (6, 18) for entry, _ in read.changes)


@given(
    st.dictionaries(
        st.binary(min_size=6, max_size=6) | st.binary(min_size=18, max_size=18),
        st.tuples(st.booleans(), st.integers(0, 2**32 - 1), st.binary(min_size=20, max_size=20)),
    ),
    st.integers(0, 2**32 - 1),
)
def test_messages_survive_the_way(
    peers: dict[bytes, tuple[bool, int, bytes]], completed: int
) -> None:
    batch = Batch(HASH, {e: Change(Kind.SEEN, Value(*value)) for e, value in peers.items()})
    assert message(batch, completed) == Message(
        b"12345678", HASH, completed, list(batch.changes.items())
    )


def test_keys_and_values_that_others_wrote_are_checked() -> None:
    assert hash_of(peers_key(HASH)) == HASH
    for key in (b"tracker:peers:zz", b"tracker:peers:", b"\xff", b"tracker:peers:" + b"61" * 19):
        assert hash_of(key) == b""
    assert read_value(Value(True, 7, ID).packed()) == Value(True, 7, ID)
    assert read_value(b"") is None
