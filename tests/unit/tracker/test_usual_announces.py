"""Announces of the usual shape are read as the general reader does, or are left to it."""

from __future__ import annotations

import os
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.answering.sources import Proxies, Rates
from aitorrent_tracker.answering.tracker import Intervals, Tracker
from aitorrent_tracker.swarms.memory import Limits, MemoryStorage
from aitorrent_tracker.swarms.storage import Announce
from aitorrent_tracker.wire.http_replies import http_reply
from aitorrent_tracker.wire.http_requests import BadRequest, RequestReader
from aitorrent_tracker.wire.query import read_announce
from aitorrent_tracker.wire.refusals import Refused
from aitorrent_tracker.wire.udp import PROTOCOL_ID, ConnectionIds
from aitorrent_tracker.wire.usual import MAX_REMEMBERED, UsualAnnounces
from tests.support.effort import examples

HOST = bytes([203, 0, 113, 5])
HEADERS = b"Host: tracker.example\r\nUser-Agent: x\r\n\r\n"
IDS = b"info_hash=%00%26%3D%25abcdefghijklmnop&peer_id=-XX0001-abcdefghijkl"
LIBTORRENT = (
    IDS + b"&port=6881&uploaded=0&downloaded=0&left=16384&corrupt=0&key=00C0FFEE&event=started"
    b"&numwant=200&compact=1&no_peer_id=1&supportcrypto=1&redundant=0"
)
TRANSMISSION = (
    IDS + b"&port=51413&uploaded=0&downloaded=0&left=0&numwant=80&key=5EED&compact=1"
    b"&supportcrypto=1&event=completed"
)
ARIA2 = (
    IDS + b"&uploaded=0&downloaded=0&left=7&compact=1&key=abcdef&numwant=50&no_peer_id=1&port=6999"
    b"&event=started&supportcrypto=1"
)


def whole(query: bytes, headers: bytes = HEADERS) -> bytes:
    return b"GET /announce?" + query + b" HTTP/1.1\r\n" + headers


def by_the_general_reader(raw: bytes) -> tuple[Announce, bool] | None:
    """What it makes of exactly one announce for a compact reply; None for anything else."""
    reader = RequestReader()
    reader.feed(raw)
    try:
        request = reader.take()
        if request is None or reader.has_rest or request.is_head or request.forwarded:
            return None
        if request.path != b"/announce":
            return None
        announce, is_compact, _ = read_announce(request.query, HOST)
    except (BadRequest, Refused):
        return None
    return (announce, request.keeps_alive) if is_compact else None


@pytest.mark.parametrize("query", [LIBTORRENT, TRANSMISSION, ARIA2])
def test_announces_of_well_known_clients_have_the_usual_shape(query: bytes) -> None:
    raw = whole(query)
    read = UsualAnnounces().read(raw, HOST)
    assert read is not None
    assert read == by_the_general_reader(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        whole(LIBTORRENT)[:-1],
        whole(LIBTORRENT) * 2,
        whole(LIBTORRENT, b"\r\n\r\n"),
        whole(LIBTORRENT, b"\r\n"),
        whole(LIBTORRENT, b"ab"),
        whole(LIBTORRENT, b" folded: x\r\n\r\n"),
        whole(LIBTORRENT, b"Content-Length: 5\r\n\r\n"),
        whole(LIBTORRENT, b"X-Forwarded-For: 192.0.2.1\r\n\r\n"),
        whole(LIBTORRENT, b"A: b\r\n" * 200 + b"\r\n"),
        whole(LIBTORRENT + b"&port=6881"),
        whole(LIBTORRENT + b"&left=0"),
        whole(LIBTORRENT + b"&info_hash=abcdefghijklmnopqrst"),
        whole(ARIA2 + b"&port=6999"),
        whole(LIBTORRENT.replace(b"port=6881", b"port=0")),
        whole(LIBTORRENT.replace(b"port=6881", b"port=65536")),
        whole(LIBTORRENT.replace(b"port=6881", b"port=+688")),
        whole(LIBTORRENT.replace(b"compact=1", b"compact=0")),
        whole(LIBTORRENT.replace(b"%26", b"%G6")),
        whole(LIBTORRENT.replace(b"%26", b"%26%26")),
        whole(LIBTORRENT.replace(b"%26", b"")),
        whole(LIBTORRENT.replace(b"-XX", b"-X")),
        whole(LIBTORRENT + b"&a" * 17),
        whole(LIBTORRENT + b"#f"),
        b"HEAD" + whole(LIBTORRENT)[3:],
        whole(LIBTORRENT).replace(b"/announce", b"/KEY/announce"),
        whole(LIBTORRENT).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_what_is_unusual_or_wrong_is_left_to_the_general_reader(raw: bytes) -> None:
    assert UsualAnnounces().read(raw, HOST) is None


_KEYS = [b"info_hash", b"peer_id", b"port", b"uploaded", b"downloaded", b"left", b"numwant"]
_KEYS += [b"corrupt", b"key", b"event", b"compact", b"no_peer_id", b"x", b"ip", b"", b"keys"]
_VALUES = st.one_of(
    st.sampled_from([b"", b"0", b"1", b"00", b"50", b"999", b"65536", b"started", b"stopped"]),
    st.sampled_from([b"completed", b"+1", b"1_0", b" 7", b"9" * 21, b"a" * 70, b"=", b"a=b", b"%"]),
    st.binary(max_size=4),
    st.just(b"%41" * 20),
    st.just(b"abcdefghij%2b+%20%00=?klmn"),
)
_PAIRS = st.tuples(st.sampled_from(_KEYS), st.sampled_from([b"=", b""]), _VALUES).map(b"".join)
_HEADERS = st.sampled_from(
    [
        *(
            HEADERS,
            b"\r\n",
            b"\r\n\r\n",
            b"",
            b"x",
            b"A: b\r\n",
            b"A: b\r\n\r\nGET",
            b"A b\r\n\r\n",
        ),
        *(
            b"Connection: close\r\n\r\n",
            b"connection: Keep-Alive , cLose\r\n\r\n",
            b"A: b\n\r\n\r\n",
        ),
        *(b"X-Forwarded-For: 192.0.2.1\r\n\r\n", b"Content-Length: 0\r\n\r\n", b"\r\nA: b\r\n\r\n"),
        b"Transfer-Encoding: chunked\r\n\r\n",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """An announce of a real client in which some pairs are changed, added, moved or left out."""
    pairs = draw(st.sampled_from([LIBTORRENT, TRANSMISSION, ARIA2])).split(b"&")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(pairs) - 1))
        match draw(st.integers(0, 3)):
            case 0:
                pairs[at] = draw(_PAIRS)
            case 1:
                pairs.insert(at, draw(_PAIRS))
            case 2:
                pairs.insert(draw(st.integers(0, len(pairs))), pairs[at])
            case _:
                pairs[at] = pairs[at].partition(b"=")[0] + b"=" + draw(_VALUES)
    return whole(b"&".join(pairs), draw(_HEADERS))


@given(st.lists(requests(), min_size=1, max_size=4))
@settings(max_examples=examples(600))
def test_whatever_is_read_means_the_same_to_the_general_reader(raws: list[bytes]) -> None:
    usual = UsualAnnounces()
    for raw in [*raws, *raws]:  # then from memory
        read = usual.read(raw, HOST)
        if read is not None:
            assert read == by_the_general_reader(raw)


def test_memory_of_ends_and_headers_is_bounded() -> None:
    usual = UsualAnnounces()
    for n in range(MAX_REMEMBERED + 5):
        headers = b"User-Agent: %d\r\n\r\n" % n
        raw = whole(LIBTORRENT + b"&x=%d" % n, headers)
        assert usual.read(raw, HOST) == by_the_general_reader(raw)
        assert len(usual) <= 2 * MAX_REMEMBERED


def tracker(*, keys: list[str] | None = None, rate: float = 1e6) -> Tracker:
    draw = random.Random(1).random
    return Tracker(
        MemoryStorage(Limits(swarms=1), ttl_s=1800.0, now=0.0, draw=draw),
        Access(None, keys or []),
        Rates(rate),
        Proxies([]),
        ConnectionIds(os.urandom(32)),
        Intervals(900),
        draw,
    )


def answered(to: Tracker, raw: bytes, host: bytes = HOST) -> bytes:
    """By way of the general reader."""
    reader = RequestReader()
    reader.feed(raw)
    request = reader.take()
    assert request is not None
    status, body = to.http(request, host, 1.0)
    return http_reply(body, status=status, is_head=False, keeps_alive=request.keeps_alive)


_HOSTS = st.sampled_from([HOST, bytes([203, 0, 113, 6]), bytes([*range(32, 48)])])


@given(st.lists(st.tuples(requests(), _HOSTS), min_size=1, max_size=6))
@settings(max_examples=examples(100))
def test_a_tracker_answers_usual_announces_byte_for_byte_as_all_others(
    rows: list[tuple[bytes, bytes]],
) -> None:
    one, other = tracker(), tracker()
    for raw, host in rows:
        usual = one.usual_http(raw, host, 1.0)
        if usual is not None:
            assert usual[0] == answered(other, raw, host)
            assert one.counts == other.counts
            assert one.storage.statistics() == other.storage.statistics()


def test_usual_announces_need_the_announce_key_too() -> None:
    assert tracker(keys=["k" * 32]).usual_http(whole(LIBTORRENT), HOST, 1.0) is None


def test_usual_announces_are_limited_by_the_rate_of_their_network() -> None:
    limited = tracker(rate=0.1)
    assert limited.usual_http(whole(LIBTORRENT), HOST, 1.0) is not None
    assert limited.usual_http(whole(LIBTORRENT), HOST, 1.0) is None
    assert b"too many requests" in answered(limited, whole(LIBTORRENT))


@given(
    st.lists(
        st.tuples(
            st.binary(min_size=56, max_size=56),  # info-hash, peer id, downloaded, left
            st.integers(0, 5),
            st.integers(-(2**31), 2**31 - 1),
            st.integers(0, 3) | st.just(65535),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.sampled_from([HOST, bytes(16)]),
)
@settings(max_examples=examples(200))
def test_announces_over_udp_without_options_are_answered_as_those_with_some(
    rows: list[tuple[bytes, int, int, int, bool]], host: bytes
) -> None:
    one, other = tracker(), tracker()
    for fields, event, wanted, port, is_proven in rows:
        replies = []
        for to, options in ((one, b""), (other, b"\0")):
            hello = to.udp(PROTOCOL_ID + bytes(8), host, 1.0)
            assert hello is not None
            connection = hello[8:] if is_proven else bytes(8)
            raw = connection + struct.pack(">II", 1, 7) + fields + bytes(8)
            raw += struct.pack(">IIIiH", event, 0, 0, wanted, port)
            replies.append(to.udp(raw + options, host, 1.0))
        assert replies[0] == replies[1]
        assert one.counts == other.counts
        assert one.storage.statistics() == other.storage.statistics()
