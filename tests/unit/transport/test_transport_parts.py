from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aitorrent_transport.config import TransportConfig
from aitorrent_transport.peers import known_peers as store_module
from aitorrent_transport.peers.known_peers import MIGRATIONS, PeerStore
from aitorrent_transport.protocols.book import (
    MAX_RECORDS,
    Book,
    check_key,
    is_shallow,
    put_frame,
    read_put,
)
from aitorrent_transport.protocols.broadcast import check_text, read_text
from aitorrentd.api import (
    Frame,
    InvalidParams,
    PeerId,
    ProtocolError,
    TooLarge,
    pack,
    unpack_map,
)
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.wire import decode_frame
from tests.support.effort import examples

A, B = PeerId("12D3KooWaaaaaaaa"), PeerId("12D3KooWbbbbbbbb")


# Limits


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(2.0, 5, 0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(0.4)
    assert bucket.take(0.6)
    assert sum(bucket.take(1000.0) for _ in range(10)) == 5


def test_spending_beyond_the_bucket_says_how_long_to_wait() -> None:
    bucket = TokenBucket(10.0, 1, 0.0)
    assert bucket.spend(0.0) == 0.0
    assert bucket.spend(0.0) == pytest.approx(0.1)
    assert bucket.spend(0.0) == pytest.approx(0.2)
    assert bucket.spend(0.3) == 0.0


def test_entries_for_peers_are_bounded_and_the_unused_go_first() -> None:
    table: PerPeer[list[int]] = PerPeer(list, max_entries=2)
    table.of("a").append(1)
    table.of("b")
    table.of("a")
    table.of("c")
    assert len(table) == 2
    assert table.of("a") == [1]


# Directory records


def test_book_keeps_the_newest_value_and_tells_changes() -> None:
    book = Book()
    assert book.put(A, "k", {"v": 1})
    assert not book.put(A, "k", {"v": 1})
    assert book.put(A, "k", {"v": 2})
    assert book.of(A) == {"k": {"v": 2}}
    assert book.drop(A, "k")
    assert not book.drop(A, "k")
    assert book.forget(A) == []


def test_book_bounds_the_records_of_each_peer() -> None:
    book = Book()
    for i in range(MAX_RECORDS):
        book.put(A, str(i), {})
    with pytest.raises(ProtocolError, match="more than 256"):
        book.put(A, "one more", {})
    book.put(A, "0", {"still": "replaceable"})
    book.put(B, "0", {})
    assert len(book.select(lambda key: key == "0")) == 2
    assert len(book.forget(A)) == MAX_RECORDS


def test_put_travels_and_arrives() -> None:
    raw = put_frame("ait:cap:demo", {"v": 1, "nested": [{"a": b"x"}]})
    assert read_put(decode_frame(raw[4:])) == ("ait:cap:demo", {"v": 1, "nested": [{"a": b"x"}]})


def test_values_that_cannot_be_told_are_refused_here() -> None:
    with pytest.raises(TooLarge, match="the limit is 4096"):
        put_frame("k", {"v": "x" * 4096})
    with pytest.raises(InvalidParams, match="cannot be packed"):
        put_frame("k", {"v": object()})
    deep: object = 1
    for _ in range(9):
        deep = [deep]
    with pytest.raises(InvalidParams, match="deeper than 8"):
        put_frame("k", {"v": deep})


def deeply(levels: int) -> bytes:
    packed = pack({"op": "put", "key": "k", "value": {"v": 0}})
    return packed[:-1] + b"\x91" * levels + b"\x00"


BAD_PUTS = [
    {"key": "", "value": {}},
    {"key": "x" * 257, "value": {}},
    {"key": "a\x1bb", "value": {}},
    {"key": 5, "value": {}},
    {"key": "k"},
    {"key": "k", "value": [1]},
    {"key": "k", "value": {1: 2}},
    {"key": "k", "value": {"v": b"x" * 4096}},
    {"key": "k", "value": {str(i): 0 for i in range(513)}},
]


@pytest.mark.parametrize("header", BAD_PUTS)
def test_bad_put_from_a_peer_is_a_protocol_error(header: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="directory key|the value under"):
        read_put(Frame(header))


@pytest.mark.parametrize("levels", [9, 300, 600, 900])
def test_deeply_nested_value_is_a_protocol_error(levels: int) -> None:
    with pytest.raises(ProtocolError, match="nested|invalid msgpack"):
        read_put(Frame(unpack_map(deeply(levels))))


@settings(max_examples=examples(200))
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.text(max_size=9)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=4),
                st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 9)), inner),
            ),
            max_leaves=20,
        ).map(lambda value: pack({"op": "put", "key": "k", "value": value})),
    )
)
def test_any_bytes_are_a_put_or_a_protocol_error(raw: bytes) -> None:
    try:
        key, value = read_put(Frame(unpack_map(raw)))
    except ProtocolError:
        return
    assert check_key(key) == key
    assert is_shallow(value, 8)


# Messages


def test_messages_are_text_of_bounded_length() -> None:
    assert read_text(check_text("grüße " * 600)) == "grüße " * 600
    for bad in ("", "x" * 4097, "\ud800"):
        with pytest.raises(InvalidParams, match="a message"):
            check_text(bad)
    for raw in (b"", b"\xff\xfe", b"x" * 4097):
        with pytest.raises(ProtocolError, match="a message"):
            read_text(raw)


# Known peers


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PeerStore]:
    async with aiosqlite.connect(tmp_path / "db") as db:
        await db.executescript(MIGRATIONS[1])
        yield PeerStore(db)


async def test_known_peer_keeps_its_places_best_first(store: PeerStore) -> None:
    await store.dialled(A, "/ip4/192.0.2.1/tcp/1", wanted=True, now=1.0)
    await store.dialled(A, "/ip4/192.0.2.2/tcp/1", wanted=False, now=2.0)
    await store.failed(A, "/ip4/192.0.2.2/tcp/1")
    assert await store.addresses(A) == ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.2/tcp/1"]
    await store.dialled(A, "/ip4/192.0.2.2/tcp/1", wanted=False, now=3.0)
    rows = await store.all()
    assert [(r.fails, r.wanted) for r in rows] == [(0, False), (0, True)]
    await store.dialled(A, "/ip4/192.0.2.1/tcp/1", wanted=False, now=4.0)
    assert [r.wanted for r in await store.all()] == [True, False]
    await store.unwant(A)
    assert not any(r.wanted for r in await store.all())


async def test_known_peers_are_bounded(store: PeerStore) -> None:
    store = PeerStore(store._db, max_peers=20)
    for i in range(12):
        await store.dialled(A, f"/ip4/192.0.2.{i}/tcp/1", wanted=False, now=float(i))
    assert len(await store.addresses(A)) == store_module.MAX_ADDRESSES
    for i in range(40):
        peer = PeerId(f"12D3KooW{i}")
        await store.dialled(peer, "/ip4/192.0.2.1/tcp/1", wanted=False, now=100.0 + i)
    rows = await store.all()
    assert len(rows) == 20
    assert rows[0].last_seen == 139.0


async def test_database_that_cannot_be_written_is_logged_and_lived_with(
    store: PeerStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store._db.execute("PRAGMA query_only = ON")
    await store.dialled(A, "/ip4/192.0.2.1/tcp/1", wanted=True, now=1.0)
    assert "cannot save known peers" in caplog.text
    assert await store.all() == []


# Configuration


def test_single_values_are_taken_as_lists() -> None:
    config = TransportConfig.model_validate(
        {"listen": "::1", "bootstrap": "example.org:8468", "psk": "0123456789abcdef"}
    )
    assert config.listen == ("::1",)
    assert config.bootstrap == ("example.org:8468",)
    key = config.psk_bytes()
    assert key is not None
    assert len(key) == 32
    assert "0123456789abcdef" not in repr(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("psk", "short", "at least 16"),
        ("listen", [], "at least one address"),
        ("listen", "example.org", "IPv4 or IPv6"),
        ("bootstrap", ["nowhere"], "the port is missing"),
        ("announce", ["0.0.0.0:1"], "means all addresses"),
        ("port", 65_536, "less than or equal"),
        ("keepalive_s", 0, "greater than or equal"),
        ("prot", 1, "not permitted"),
    ],
)
def test_bad_setting_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TransportConfig.model_validate({key: value})
