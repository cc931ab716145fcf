"""What arrives at the HTTP port: queries and requests, as clients and attackers send them."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_tracker.swarms.storage import Announce, Counts, Event, Found
from aitorrent_tracker.wire.bencode import Value, bencode
from aitorrent_tracker.wire.http_replies import (
    compact_reply,
    failure_reply,
    full_reply,
    http_reply,
    scrape_reply,
)
from aitorrent_tracker.wire.http_requests import (
    MAX_HEAD_BYTES,
    BadRequest,
    Request,
    RequestReader,
)
from aitorrent_tracker.wire.query import DEFAULT_WANTED, MAX_WANTED, read_announce, read_scrape
from aitorrent_tracker.wire.refusals import Refused

HASH = b"%00%26%3D%25%2B%ff%Fe" + b"+-._~abcdefgh"
PEER = b"-TR3000-" + b"123456789012"
GOOD = b"info_hash=" + HASH + b"&peer_id=" + PEER + b"&port=6881&left=0"


def requests(*chunks: bytes) -> list[Request]:
    reader = RequestReader()
    found = []
    for chunk in chunks:
        reader.feed(chunk)
        while (request := reader.take()) is not None:
            found.append(request)
    return found


# Queries


def announce_of(query: bytes) -> Announce:
    return read_announce(query, b"\1\2\3\4")[0]


def test_info_hash_has_any_bytes_escaped_in_any_case_or_not_at_all() -> None:
    assert announce_of(GOOD).info_hash == b"\x00&=%+\xff\xfe+-._~abcdefgh"


@given(st.binary(min_size=20, max_size=20), st.booleans(), st.booleans())
def test_every_info_hash_survives_the_query(raw: bytes, lower: bool, all_of_it: bool) -> None:
    text = "".join(f"%{b:02X}" for b in raw) if all_of_it else quote_from_bytes(raw, safe="+!*")
    if lower:
        text = "".join(c.lower() if i and text[i - 1] in "%" else c for i, c in enumerate(text))
    query = b"peer_id=" + PEER + b"&port=1&info_hash=" + text.encode()
    assert announce_of(query).info_hash == raw
    assert read_scrape(query) == [raw]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"", "port is missing"),
        (GOOD.replace(b"info_hash=", b"infohash="), "info_hash is missing"),
        (GOOD.replace(HASH, b""), "info_hash is not 20"),
        (GOOD.replace(HASH, b"a" * 19), "info_hash is not 20"),
        (GOOD.replace(HASH, b"a" * 21), "info_hash is not 20"),
        (GOOD.replace(HASH, b"a" * 40), "info_hash is not 20"),  # hexadecimal: a common mistake
        (GOOD.replace(HASH, b"%"), "info_hash is not 20"),
        (GOOD.replace(HASH, b"%G1" + b"a" * 17), "info_hash is not 20"),
        (GOOD.replace(HASH, b"a" * 18 + b"%4"), "info_hash is not 20"),
        (GOOD.replace(HASH, b"%u0041" + b"a" * 19), "info_hash is not 20"),
        (GOOD.replace(HASH, "é".encode() * 20), "info_hash is not 20"),
        (GOOD + b"&info_hash=" + HASH, "info_hash is repeated"),
        (GOOD + b"&port=1", "port is repeated"),
        (GOOD.replace(PEER, PEER[:-1]), "peer_id is not 20"),
        (GOOD.replace(b"6881", b"0"), "port is missing or"),
        (GOOD.replace(b"6881", b"65536"), "port is missing or"),
        (GOOD.replace(b"6881", b"69691337"), "port is missing or"),
        (GOOD.replace(b"6881", b"-1"), "port is missing or"),
        (GOOD.replace(b"6881", b"+1"), "port is missing or"),
        (GOOD.replace(b"6881", b"1_0"), "port is missing or"),
        (GOOD.replace(b"6881", "٣".encode()), "port is missing or"),
        (GOOD.replace(b"6881", b"9" * 5000), "port is missing or"),
        (GOOD + b"&a=b" * 100, "too many parameters"),
    ],
)
def test_malformed_announce_is_refused_with_its_reason(query: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        announce_of(query)


def test_numbers_that_clients_get_wrong_do_not_matter() -> None:
    for left in (b"-1", b"NaN", b"Infinity", b"", b"16384", b"9" * 400):
        assert not announce_of(GOOD.replace(b"left=0", b"left=" + left)).is_seed
    assert announce_of(GOOD).is_seed and announce_of(GOOD + b"0").is_seed
    for wanted in (b"-1", b"", b"many", b"1e3", b"9" * 4300):
        assert announce_of(GOOD + b"&numwant=" + wanted).wanted == DEFAULT_WANTED
    assert announce_of(GOOD + b"&numwant=0").wanted == 0
    assert announce_of(GOOD + b"&numwant=1000000").wanted == MAX_WANTED


def test_events_and_formats_are_read_and_unknown_ones_are_plain_announces() -> None:
    assert announce_of(GOOD + b"&event=completed").event is Event.COMPLETED
    for event in (b"paused", b"", b"STARTED", b"\xff"):
        assert announce_of(GOOD + b"&event=" + event).event is Event.NONE
    assert announce_of(GOOD.replace(b"6881", b"0") + b"&event=stopped").port == 0
    plain = GOOD + b"&compact=0&no_peer_id=1"
    assert read_announce(plain, b"\1\2\3\4")[1:] == (False, False)
    assert read_announce(GOOD, b"\1\2\3\4")[1:] == (True, True)


def test_empty_pairs_and_unknown_parameters_are_skipped() -> None:
    assert announce_of(b"&&=&ip=1.2.3.4&" + GOOD + b"&&key").port == 6881


def test_scrape_names_each_hash_once_and_few_of_them() -> None:
    one, two = b"info_hash=" + b"a" * 20, b"info_hash=" + b"b" * 20
    assert read_scrape(b"&".join((one, two, one))) == [b"a" * 20, b"b" * 20]
    with pytest.raises(Refused, match="no full scrape"):
        read_scrape(b"")
    many = b"&".join(b"info_hash=" + f"{n:020}".encode() for n in range(75))
    with pytest.raises(Refused, match="74 info-hashes at most"):
        read_scrape(many)
    with pytest.raises(Refused, match="74 info-hashes at most"):
        read_scrape(one + b"&x" * 200)


@given(st.binary(max_size=300))
def test_random_queries_are_refused_or_read(raw: bytes) -> None:
    for read in (announce_of, read_scrape):
        try:
            read(raw)
        except Refused as e:
            assert e.kind == "malformed"


# Requests


def test_pipelined_and_split_requests_are_read_alike() -> None:
    raw = b"GET /announce?a=b HTTP/1.1\r\nHost: x\r\n\r\nHEAD /scrape HTTP/1.0\r\n\r\n"
    whole = requests(raw)
    assert whole == requests(*(raw[at : at + 1] for at in range(len(raw))))
    assert whole == [
        Request(b"/announce", b"a=b", False, True, ()),
        Request(b"/scrape", b"", True, False, ()),
    ]


def test_absolute_uri_fragment_and_leading_empty_line_are_understood() -> None:
    (one,) = requests(b"\r\nGET http://t.example:6969/announce?x=1#y HTTP/1.1\r\n\r\n")
    assert (one.path, one.query) == (b"/announce", b"x=1")


def test_connection_header_decides_who_closes() -> None:
    def keeps(version: bytes, value: bytes) -> bool:
        raw = b"GET / HTTP/%b\r\nCONNECTION:%b\r\n\r\n" % (version, value)
        return requests(raw)[0].keeps_alive

    assert keeps(b"1.1", b" x") and keeps(b"1.0", b" Keep-Alive") and keeps(b"1.1", b"keep-alive")
    assert not keeps(b"1.0", b"") and not keeps(b"1.1", b" TE, Close ")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /announce HTTP/1.1\r\n\r\n", "405"),
        (b"get /announce HTTP/1.1\r\n\r\n", "405"),
        (b"GET /announce HTTP/2.0\r\n\r\n", "505"),
        (b"PRI * HTTP/2.0\r\n\r\n", "505"),
        (b"GET /announce\r\n\r\n", "400"),
        (b"GET /a b HTTP/1.1\r\n\r\n", "400"),
        (b"GET  / HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nA\nB: c\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nA\rB: c\r\n\r\n", "400"),
        (b"GET /\0 HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello", "400"),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "413"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "413"),
        (b"GET announce HTTP/1.1\r\n\r\n", "400"),
        (b"GET http:///announce HTTP/1.1\r\n\r\n", "400"),
        (b"GET http://host HTTP/1.1\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "400"),  # TLS
        (b"\x13BitTorrent protocol\r\n\r\n", "400"),
        (b"GET /" + b"a" * MAX_HEAD_BYTES, "431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n", "431"),
    ],
)
def test_what_is_no_request_ends_the_connection(raw: bytes, status: str) -> None:
    with pytest.raises(BadRequest, match=status):
        requests(raw)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_random_bytes_are_refused_or_waited_for(chunks: list[bytes]) -> None:
    reader = RequestReader()
    for chunk in chunks:
        reader.feed(chunk)
    try:
        while reader.take() is not None:
            pass
    except BadRequest as e:
        assert e.status[:1] in (b"4", b"5")


# Replies


def test_compact_and_full_replies_have_the_keys_of_the_specifications() -> None:
    found = Found(1, 2, 3, b"\x01\x02\x03\x04\x1a\xe1", b"\x20\x01" + bytes(13) + b"\x05\0\x50")
    assert compact_reply(found, 900, 60) == (
        b"d8:completei1e10:downloadedi3e10:incompletei2e8:intervali900e12:min intervali60e"
        b"5:peers6:\x01\x02\x03\x04\x1a\xe16:peers618:\x20\x01" + bytes(13) + b"\x05\0\x50e"
    )
    peers = b"d2:ip7:1.2.3.44:porti6881eed2:ip7:2001::54:porti80ee"
    assert full_reply(found, 900, 60, None).endswith(b"5:peersl" + peers + b"ee")
    with_ids = full_reply(found, 900, 60, lambda entry: b"I" * 20)
    assert b"d2:ip7:1.2.3.47:peer id20:" + b"I" * 20 + b"4:porti6881ee" in with_ids


def test_scrape_failure_and_head_replies() -> None:
    counts = {b"b" * 20: Counts(1, 2, 3), b"a" * 20: Counts(0, 0, 0)}
    zeros = b"d8:completei0e10:downloadedi0e10:incompletei0ee"
    some = b"d8:completei1e10:downloadedi3e10:incompletei2ee"
    assert scrape_reply(counts) == (
        b"d5:filesd20:" + b"a" * 20 + zeros + b"20:" + b"b" * 20 + some + b"ee"
    )
    refused = Refused("rate", "slow down", retry_min=1)
    assert failure_reply(refused) == b"d14:failure reason9:slow down8:retry ini1ee"
    head = http_reply(b"body", is_head=True, keeps_alive=True)
    assert b"Content-Length: 4\r\n" in head and head.endswith(b"\r\n\r\n")


def test_bencode_sorts_keys_and_counts_bytes() -> None:
    value: Value = {b"z": [1, -2, b""], b"a": {}, "é".encode(): "é".encode()}
    assert bencode(value) == b"d1:ade1:zli1ei-2e0:e2:\xc3\xa92:\xc3\xa9e"
