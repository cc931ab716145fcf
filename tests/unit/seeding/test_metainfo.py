"""Torrent files from strangers: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_seeding.torrents import bencode, metainfo
from aitorrent_seeding.torrents.metainfo import MAX_BYTES
from aitorrentd.api import ProtocolError, TooLarge

PIECE = 16_384
BASE: Mapping[bytes, object] = {
    b"length": 5,
    b"name": b"model.bin",
    b"piece length": PIECE,
    b"pieces": bytes(20),
}


def torrent(top: Mapping[bytes, object] | None = None, **info: object) -> bytes:
    changed = {name.replace("_", " ").encode(): value for name, value in info.items()}
    about = {k: v for k, v in {**BASE, **changed}.items() if v is not None}
    return bencode.encode({b"info": about, **(top or {})})


def folder(*paths: list[bytes], **each: object) -> bytes:
    extra = {name.replace("_", " ").encode(): value for name, value in each.items()}
    files = [{b"length": 1, b"path": path, **extra} for path in paths]
    return torrent(length=None, files=files)


def test_a_folder_is_read() -> None:
    read = metainfo.read(folder([b"a"], [b"b", b"c.bin"]))
    assert [file.path for file in read.files] == [("model.bin", "a"), ("model.bin", "b", "c.bin")]
    assert (read.size, read.pieces, read.is_single, read.is_private) == (2, 1, False, False)


def test_trackers_and_web_seeds_are_read_without_other_schemes() -> None:
    read = metainfo.read(
        torrent(
            {
                b"announce": b"http://tracker.test/announce",
                b"announce-list": [[b"udp://t:1/announce", b"file:///etc/passwd"], b"x", [3]],
                b"url-list": [b"https://web.test/f", b"ftp://web.test/f", b"javascript:1"],
            }
        )
    )
    assert read.trackers == ("http://tracker.test/announce", "udp://t:1/announce")
    assert read.web_seeds == ("https://web.test/f",)


UNSAFE_NAMES = [
    b"",
    b".",
    b"..",
    b"../x",
    b"a/b",
    b"a\\b",
    b"a\0b",
    b"C:",
    b"C:evil",
    b"con",
    b"NUL.txt",
    b"LPT1",
    b"a" * 256,
    b"a\x1fb",
    b"a\nb",
    b"trailing.",
    b" lead",
    b"trail ",
    "gpj\u202eexe".encode(),
    "zero\u200bwidth".encode(),
    b"\xff\xfe",
    b"a:b",
    b"a*",
]


@pytest.mark.parametrize("name", UNSAFE_NAMES, ids=repr)
def test_path_traversal_and_unsafe_names_are_refused(name: bytes) -> None:
    with pytest.raises(ProtocolError, match="unsafe name|not UTF-8"):
        metainfo.read(torrent(name=name))
    with pytest.raises(ProtocolError, match="unsafe name|not UTF-8"):
        metainfo.read(folder([b"ok", name]))


def test_symbolic_links_are_refused() -> None:
    with pytest.raises(ProtocolError, match="symbolic link"):
        metainfo.read(folder([b"a"], attr=b"l", symlink_path=[b"..", b"etc"]))
    with pytest.raises(ProtocolError, match="symbolic link"):
        metainfo.read(torrent(attr=b"lx"))


@pytest.mark.parametrize(
    "paths",
    [
        ([b"a"], [b"a"]),
        ([b"a"], [b"A"]),
        ([b"a"], [b"a", b"b"]),
        ([b"a", b"b"], [b"a"]),
        (["é".encode()], ["e\u0301".encode()]),
    ],
)
def test_files_that_would_overwrite_each_other_are_refused(paths: tuple[list[bytes], ...]) -> None:
    with pytest.raises(ProtocolError, match="twice, or below another file"):
        metainfo.read(folder(*paths))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not a bencoded dictionary"),
        (b"le", "not a bencoded dictionary"),
        (b"de", "no `info`"),
        (b"d4:infode", "cut off"),
        (b"d4:infodeex", "after its end"),
        (b"d1:b0:1:a0:e", "not sorted or occur twice"),
        (b"d1:a0:1:a0:e", "not sorted or occur twice"),
        (b"d1:ai01ee", "not written canonically"),
        (b"d1:ai-0ee", "not written canonically"),
        (b"d1:ai+1ee", "not written canonically"),
        (b"d1:ai1_0ee", "not written canonically"),
        (b"d02:aai1ee", "not written canonically"),
        (b"d1:ai" + b"9" * 5000 + b"ee", "too long"),
        (b"d1:a99999999:e", "cut off"),
        (b"d-1:ae", "not written canonically"),
        (b"d1:a" + b"l" * 100_000, "nested more than"),
        (b"d1:ae", "key without a value"),
        (torrent(pieces=bytes(19)), "no SHA-1 for each"),
        (torrent(pieces=bytes(40)), "no SHA-1 for each"),
        (torrent(pieces=None), "no pieces"),
        (torrent(length=-1), "`length`"),
        (torrent(length=0, pieces=b""), "beyond the limits"),
        (torrent(length=2**55), "`length`"),
        (torrent(piece_length=0), "`piece length`"),
        (torrent(piece_length=PIECE + 1), "no power of two"),
        (torrent(piece_length=2**40), "`piece length`"),
        (torrent(length=None, files=[]), "list of 1 to"),
        (torrent(length=None, files=[{b"length": 1, b"path": []}]), "without a path"),
        (torrent(length=None, files=[{b"length": 1, b"path": [b"a"] * 99}]), "without a path"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_malformed_torrents_are_refused_with_the_reason(raw: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        metainfo.read(raw)


def test_huge_torrent_file_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooLarge, match="over"):
        metainfo.read(bytes(MAX_BYTES + 1))


def test_info_hash_covers_the_bytes_as_they_were_sent() -> None:
    """A key that nobody knows belongs to the hash, too."""
    plain, extra = metainfo.read(torrent()), metainfo.read(torrent(zzz=b"more"))
    assert plain.info_hash != extra.info_hash


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise(raw: bytes) -> None:
    for prefix in (b"", b"d4:info"):
        try:
            metainfo.read(prefix + raw)
        except ProtocolError:
            continue


VALUES = st.recursive(
    st.integers(-(10**17), 10**17) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=4), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.binary(max_size=4), VALUES, max_size=4))
def test_what_is_encoded_is_decoded(value: dict[bytes, bencode.Value]) -> None:
    raw = bencode.encode(value)
    decoded = bencode.decode(raw)
    assert decoded.value == value
    assert {k: raw[a:b] for k, (a, b) in decoded.spans.items()} == {
        k: bencode.encode(v) for k, v in value.items()
    }
