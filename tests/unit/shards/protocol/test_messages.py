"""Bytes of strangers: a value or a ProtocolError, never anything else."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_shards.protocol.messages import (
    VERSION,
    Open,
    open_header,
    parse_candidates,
    parse_have,
    parse_hop,
    parse_request,
    parse_step,
    request_id,
)
from aitorrent_shards.protocol.spans import Span, gaps, other_versions, parse_span, parse_spans
from aitorrentd.api import PeerId, ProtocolError, Record, peer_id

PEER = peer_id(bytes(32))
WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=80),
    st.binary(max_size=40),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)
OPENED = Open(b"s" * 16, "d", "float32", 0, 4, 100, PEER, False)
VALUES: Mapping[str, Any] = open_header(OPENED) | {
    "id": 1,
    "peer": PEER,
    "addresses": ["/ip4/127.0.0.1/tcp/1"],
    "k": 2,
    "temperature": 0.5,
    "p": 3,
    "n": 1,
    "w": [4, 1.0],
    "have": 5,
    "lse": 9.0,
}
SPAN = Span(PEER, "m", "d", "f", 0, 4, 8, "float32", 16, 512, 1000, 50, 7, ("a",))


def test_opening_of_the_first_version_is_recognised_as_such() -> None:
    header = open_header(OPENED) | {"id": 1}
    assert parse_request(header) == OPENED
    first = {k: v for k, v in header.items() if k not in ("v", "prompt")}
    opened = parse_request(first)
    assert isinstance(opened, Open)
    assert opened.version == 1
    with pytest.raises(ProtocolError, match="prompt must be an integer"):
        parse_request({k: v for k, v in header.items() if k != "prompt"})


def test_spans_of_another_version_are_told_apart() -> None:
    records = [
        Record("ait:shard:d", PEER, SPAN.value() | {"v": v}, ("a",))
        for v in (1, VERSION, VERSION + 1, 0, "2", True)
    ]
    assert parse_spans(records) == [SPAN]
    assert [s.version for s in other_versions(records)] == [1, VERSION + 1]


OPERATIONS = ["open", "link", "prev", "ping", "candidates", "hello", "reach", "hop", None]


def broken(valid: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A valid map with some of its values replaced, or left out where an empty list came up."""
    keys = st.lists(st.sampled_from(sorted(valid)), max_size=3, unique=True)
    return keys.flatmap(
        lambda names: st.fixed_dictionaries({n: WEIRD for n in names}).map(
            lambda bad: {k: v for k, v in (dict(valid) | bad).items() if v != []}
        )
    )


@given(broken(VALUES), st.sampled_from(OPERATIONS))
def test_any_header_is_a_message_or_a_protocol_error(header: dict[str, Any], op: object) -> None:
    header["op"] = op
    for parse in (parse_request, parse_hop, parse_step, parse_have, request_id):
        try:
            parse(header)
        except ProtocolError:
            continue


@given(broken(VALUES), st.binary(max_size=24))
def test_any_candidates_are_valid_or_a_protocol_error(header: dict[str, Any], tail: bytes) -> None:
    try:
        found = parse_candidates(header, tail, vocab=100)
    except ProtocolError:
        return
    assert all(0 <= i < 100 for i in found.ids)
    assert all(math.isfinite(x) for x in (*found.logits, found.lse))


@given(broken(SPAN.value()), st.lists(WEIRD, max_size=3))
def test_any_record_is_a_span_or_left_out(value: dict[str, Any], addresses: list[Any]) -> None:
    record = Record("ait:shard:d", PEER, value, tuple(addresses))
    for span in parse_spans([record]):
        assert 0 <= span.start < span.end <= span.layers
        assert span.digest == "d"


def test_open_survives_its_encoding() -> None:
    assert parse_request(open_header(OPENED)) == OPENED


def test_span_survives_its_encoding() -> None:
    assert parse_span(Record("ait:shard:d", PEER, SPAN.value(), ("a",))) == SPAN


def test_span_under_the_key_of_other_weights_is_refused() -> None:
    with pytest.raises(ProtocolError, match="digest of a span must be that of its key"):
        parse_span(Record("ait:shard:other", PEER, SPAN.value()))


def candidates(
    ids: list[int], logits: list[float], lse: float = 9.0
) -> tuple[dict[str, Any], bytes]:
    k = len(ids)
    return {"p": 3, "n": 1, "k": k, "lse": lse}, struct.pack(f"<{k}I{k}f", *ids, *logits)


def test_candidates_follow_the_positions_computed() -> None:
    found = parse_candidates(*candidates([5, 2, 9], [1.5, 1.0, 1.0]), vocab=10)
    assert (found.length, found.ids, found.logits) == (4, (5, 2, 9), (1.5, 1.0, 1.0))


@pytest.mark.parametrize(
    ("ids", "logits", "lse", "problem"),
    [
        ([10], [1.0], 9.0, "candidate 10 in a vocabulary of 10"),
        ([1, 2], [1.0, 2.0], 9.0, "not sorted"),
        ([2, 1], [1.0, 1.0], 9.0, "not sorted"),
        ([1, 1], [1.0, 1.0], 9.0, "not sorted"),
        ([1, 2, 3], [2.0, math.nan, 1.0], 9.0, "not sorted"),
        ([1, 2], [math.inf, 1.0], 9.0, "not finite"),
        ([1], [1.0], math.nan, "lse must be a finite number"),
    ],
)
def test_forged_candidates_are_refused(
    ids: list[int], logits: list[float], lse: float, problem: str
) -> None:
    header, tail = candidates(ids, logits, lse)
    with pytest.raises(ProtocolError, match=problem):
        parse_candidates(header, tail, vocab=10)


def test_candidates_of_another_size_than_they_say_are_refused() -> None:
    header, tail = candidates([1, 2], [2.0, 1.0])
    with pytest.raises(ProtocolError, match="2 candidates take 16 bytes, got 15"):
        parse_candidates(header, tail[:-1], vocab=10)


def span(start: int, end: int, peer: PeerId = PEER) -> Span:
    return Span(peer, "m", "d", "f", start, end, 8, "float32", 16, 512, 1000, 50, 7)


def test_gaps_names_what_nobody_holds() -> None:
    assert gaps([span(1, 3), span(2, 4), span(6, 8)], 0, 8) == [(0, 1), (4, 6)]
    assert gaps([span(0, 8)], 2, 5) == []
    assert gaps([], 2, 5) == [(2, 5)]
