"""Records kept for others: numbers, ends, limits."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from aitorrent_dht.core.contact import id_of
from aitorrent_dht.core.record import (
    CLOCK_SKEW_S,
    MAX_TTL_S,
    MAX_VALUE_BYTES,
    DhtRecord,
    Kind,
    check,
    name_digest,
    provider_key,
    read_record,
    value_key,
)
from aitorrent_dht.core.store import (
    PER_KEY,
    PER_PUBLISHER,
    PER_SUBNET_AND_KEY,
    Outcome,
    RecordStore,
)
from aitorrentd.api import ProtocolError, pack, unpack

NOW = 1_000_000.0
LOCAL = "127.0.0.1"


def record(
    publisher: int = 1, key: str = "k", seq: int = 1, value: bytes = b"v", *, ttl_s: float = 3600
) -> DhtRecord:
    raw = DhtRecord(
        Kind.PROVIDER,
        provider_key(key),
        publisher.to_bytes(32, "big"),
        seq,
        int(NOW + ttl_s),
        value,
    )
    return replace(raw, signature=hashlib.sha512(raw.signed_part(raw.publisher)).digest())


def put(store: RecordStore, it: DhtRecord, host: str = LOCAL) -> Outcome:
    return store.put(it, host, until=it.expires, epoch_s=NOW)


def test_higher_number_replaces_and_a_lower_or_equal_one_is_stale() -> None:
    store = RecordStore(0)
    assert put(store, record(seq=5)) is Outcome.STORED
    assert put(store, record(seq=5)) is Outcome.KNOWN
    assert put(store, record(seq=4, value=b"older")) is Outcome.STALE
    assert put(store, record(seq=5, value=b"same number")) is Outcome.STALE
    assert put(store, record(seq=6, value=b"newer")) is Outcome.STORED
    assert [r.value for r in store.get(provider_key("k"), NOW)] == [b"newer"]
    assert store.held(record()) == record(seq=6, value=b"newer")


def test_many_publishers_of_one_key_are_kept_apart() -> None:
    store = RecordStore(0)
    for publisher in range(1, 6):
        put(store, record(publisher))
    assert len(store.get(provider_key("k"), NOW)) == 5


def test_records_end() -> None:
    store = RecordStore(0)
    put(store, record(1, ttl_s=10))
    put(store, record(2, ttl_s=20))
    assert len(store.get(provider_key("k"), NOW + 15)) == 1
    assert store.expire(NOW + 15) == 1
    assert len(store) == 1
    assert store.expire(NOW + 25) == 1
    assert (len(store), store.size_bytes) == (0, 0)


def test_nobody_fills_a_key_alone() -> None:
    store = RecordStore(0)
    for publisher in range(1, 200):
        put(store, record(publisher), f"8.8.8.{publisher}")
    assert len(store) == PER_SUBNET_AND_KEY
    assert put(store, record(500), "9.9.9.9") is Outcome.STORED


def test_a_key_holds_a_bounded_number_of_publishers_and_ended_ones_make_room() -> None:
    store = RecordStore(0)
    for publisher in range(1, PER_KEY + 1):
        assert put(store, record(publisher, ttl_s=10)) is Outcome.STORED
    late = record(999)
    assert put(store, late) is Outcome.FULL
    assert store.put(late, LOCAL, until=late.expires, epoch_s=NOW + 11) is Outcome.STORED


def test_a_publisher_has_a_bounded_number_of_records() -> None:
    store = RecordStore(0)
    outcomes = [put(store, record(1, f"k{i}")) for i in range(PER_PUBLISHER + 5)]
    assert outcomes.count(Outcome.STORED) == PER_PUBLISHER
    assert outcomes[-1] is Outcome.FULL
    assert put(store, record(2, "other")) is Outcome.STORED


@pytest.mark.parametrize("limit", ["records", "bytes"])
def test_full_store_gives_up_the_farthest_record(limit: str) -> None:
    options = {"max_records": 50} if limit == "records" else {"max_bytes": 50 * 601}
    store = RecordStore(0, **options)
    every = [record(i, f"k{i}") for i in range(1, 101)]
    for it in every:
        put(store, it)
    nearest = sorted(every, key=lambda r: r.target)[:50]
    kept = [it for it in every if store.get(it.key, NOW)]
    assert len(store) == 50
    assert sorted(kept, key=lambda r: r.target) == nearest
    farthest = max(every, key=lambda r: r.target)
    assert put(store, replace(farthest, publisher=b"x" * 32)) is Outcome.FULL


def test_deletion_stays_so_that_the_deleted_record_cannot_come_back() -> None:
    store = RecordStore(0)
    put(store, record(seq=1))
    gone = replace(record(seq=2, value=b""), is_deleted=True)
    assert put(store, gone) is Outcome.STORED
    assert put(store, record(seq=1)) is Outcome.STALE
    assert store.get(provider_key("k"), NOW) == [gone]


def test_value_record_has_its_publisher_in_its_key() -> None:
    name, me = name_digest("n"), b"p" * 32
    good = DhtRecord(Kind.VALUE, value_key(me, name), me, 1, int(NOW + 60), b"v", name=name)
    assert check(good, NOW) == ""
    assert "publisher" in check(replace(good, publisher=b"q" * 32), NOW)
    assert "publisher" in check(replace(good, key=provider_key("n")), NOW)
    assert "name" in check(replace(good, name=b""), NOW)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"expires": int(NOW - CLOCK_SKEW_S)}, "expired"),
        ({"expires": int(NOW + MAX_TTL_S + CLOCK_SKEW_S + 1)}, "future"),
        ({"value": b"x" * (MAX_VALUE_BYTES + 1)}, "large"),
        ({"is_deleted": True}, "deletion"),
        ({"name": b"n" * 32}, "provider"),
        ({}, ""),
        ({"expires": int(NOW - CLOCK_SKEW_S + 5)}, ""),
    ],
)
def test_record_that_must_not_be_kept(changed: dict[str, object], problem: str) -> None:
    found = check(replace(record(), **changed), NOW)  # type: ignore[arg-type]
    assert problem in found if problem else found == ""


def test_record_is_the_same_after_the_wire() -> None:
    it = record(value=b"\x00\xff" * 20)
    assert read_record(unpack(pack(it.as_map()))) == it
    assert it.target == id_of(it.key)
    assert len(pack(it.as_map())) <= it.size_bytes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("t", 2),
        ("t", True),
        ("k", b"short"),
        ("k", "x" * 32),
        ("p", None),
        ("s", -1),
        ("s", 2**60),
        ("s", 1.5),
        ("e", "soon"),
        ("v", b"x" * (MAX_VALUE_BYTES + 1)),
        ("v", 7),
        ("n", b"x" * 33),
        ("d", 1),
        ("g", b"x" * 63),
    ],
)
def test_malformed_record_is_a_protocol_error(field: str, value: object) -> None:
    fields = record().as_map()
    fields[field] = value
    with pytest.raises(ProtocolError, match=f"^{field} must be"):
        read_record(fields)


@pytest.mark.parametrize("missing", list("tkpsevndg"))
def test_record_without_a_field_is_a_protocol_error(missing: str) -> None:
    fields = record().as_map()
    del fields[missing]
    with pytest.raises(ProtocolError, match=f"^{missing} must be"):
        read_record(fields)
    with pytest.raises(ProtocolError, match="map"):
        read_record([fields])
