"""Torrent files of strangers: canonical bencode only, and the info dictionary byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha1
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_tracker.catalogue.torrents.bdecode import MAX_DEPTH, Malformed, decode
from aitorrent_tracker.catalogue.torrents.metainfo import check_metainfo, served_metainfo
from aitorrent_tracker.wire.bencode import bencode
from aitorrentd.api.models.publications import read_publication
from tests.support.catalogue.publishing import Publisher
from tests.support.catalogue.trackers import torrent

ALICE = Publisher("alice")
VALUES = st.recursive(
    st.integers(-(10**18), 10**18) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=8), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.binary(max_size=8), VALUES))
def test_what_is_written_is_read_back_with_its_spans(value: Mapping[bytes, Any]) -> None:
    raw = bencode(value)
    found = decode(raw)
    assert found.value == value
    assert bencode(found.value) == raw
    for key, (start, end) in found.spans.items():
        assert raw[start:end] == bencode(value[key])


@given(st.dictionaries(st.binary(max_size=8), VALUES), st.data())
def test_one_changed_byte_is_malformed_or_another_canonical_value(
    value: Mapping[bytes, Any], data: st.DataObject
) -> None:
    raw = bytearray(bencode(value))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(raw))
    except Malformed:
        return
    assert bencode(found.value) == bytes(raw)


@given(st.binary(max_size=200))
def test_no_bytes_are_fatal(raw: bytes) -> None:
    with pytest.raises(Malformed):
        decode(b"l" + raw)


MALFORMED = {
    "nothing": b"",
    "a list": b"le",
    "keys out of order": b"d1:bi1e1:ai1ee",
    "a repeated key": b"d1:ai1e1:ai2ee",
    "a key that is a number": b"di1ei2ee",
    "a key that is a list": b"dlei1ee",
    "a key without a value": b"d1:ae",
    "a leading zero": b"d1:ai01ee",
    "minus zero": b"d1:ai-0ee",
    "an empty integer": b"d1:aiee",
    "a plus sign": b"d1:ai+1ee",
    "a space in an integer": b"d1:ai 1ee",
    "an underscore": b"d1:ai1_0ee",
    "a huge integer": b"d1:ai" + b"9" * 5000 + b"ee",
    "a leading zero in a length": b"d01:ai1ee",
    "a negative length": b"d-1:ai1ee",
    "a length beyond the end": b"d1:a999:xe",
    "a length of a terabyte": b"d1:a1099511627776:xe",
    "bytes after the end": b"dex",
    "no end": b"d1:ai1e",
    "an end in a list": b"d1:al",
    "too deep": b"d1:a" + b"l" * 100_000 + b"e" * 100_000 + b"e",
    "too many values": b"d1:al" + b"i1e" * 200_000 + b"ee",
    "another type": b"d1:at4:truee",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_not_canonical_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        decode(MALFORMED[name])


def test_nesting_up_to_the_limit_is_read() -> None:
    deep = b"d1:a" + b"l" * (MAX_DEPTH - 1) + b"e" * (MAX_DEPTH - 1) + b"e"
    assert decode(deep).value[b"a"]


@pytest.mark.parametrize(
    "info", [{}, {"private": 0}, {"private": 1}, {"source": b"X"}, {"x_custom": [1, {b"k": b"v"}]}]
)
def test_info_dictionary_of_a_download_is_the_uploaded_one(info: dict[str, Any]) -> None:
    """torrust-index 249, 261, 282: fields were added or lost, and with them the hash."""
    made = torrent(b"w" * 50_000, **info)
    publication = read_publication(ALICE.publication(**made["fields"]).as_map())
    check_metainfo(made["metainfo"], publication)
    served = served_metainfo(made["metainfo"], ["http://t.example/announce"], [])
    start, end = decode(served).spans[b"info"]
    assert sha1(served[start:end]).hexdigest() == made["fields"]["info_hash"]
    assert set(decode(served).value) == {b"announce", b"announce-list", b"info"}
    # What is served is canonical, too.
    assert bencode(decode(served).value) == served
