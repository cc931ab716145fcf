"""What a user can ask for."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_seeding.torrents.wanted import (
    WantedDigest,
    WantedName,
    WantedTorrent,
    magnet_link,
    parse,
)
from aitorrentd.api import InvalidParams

HASH = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "ab" * 32


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (HASH, WantedTorrent(HASH)),
        (HASH.upper(), WantedTorrent(HASH)),
        (base64.b32encode(bytes.fromhex(HASH)).decode(), WantedTorrent(HASH)),
        (f" {DIGEST.upper()} ", WantedDigest(DIGEST)),
        ("hf://Qwen/Qwen2.5-0.5B", WantedName("hf", "Qwen/Qwen2.5-0.5B")),
        ("hf://org/name@v1.0", WantedName("hf", "org/name", "v1.0")),
        ("catalogue:llama", None),
        ("catalogue://llama", WantedName("catalogue", "llama")),
        (f"magnet:?xt=urn:btih:{HASH}", WantedTorrent(HASH)),
        (
            f"magnet:?xt=urn:btih:{HASH}&tr=http%3A%2F%2Ft%2Fa&tr=file:///x&x.pe=192.0.2.1:5",
            WantedTorrent(HASH, ("http://t/a",), (("192.0.2.1", 5),)),
        ),
        (f"magnet:?xt=urn:btih:{HASH}&dn=a%20b.gguf", WantedTorrent(HASH, name="a b.gguf")),
        (f"magnet:?xt=urn:btih:{HASH}&dn=..%2Fb", WantedTorrent(HASH)),
        (f"magnet:?xt=urn:btih:{HASH}&dn=%FFb%00", WantedTorrent(HASH)),
        (f"magnet:?xt=urn:btih:{HASH}&dn={'n' * 300}", WantedTorrent(HASH)),
        ("magnet:?xt=urn:btih:short", None),
        ("magnet:?dn=x", None),
        ("", None),
        ("../etc/passwd", None),
        ("x" * 9000, None),
    ],
)
def test_text_is_understood_or_refused(text: str, wanted: object) -> None:
    if wanted is None:
        with pytest.raises(InvalidParams):
            parse(text)
    else:
        assert parse(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        f"MAGNET:?xt=urn:btih:{HASH}",
        f"magnet:?XT=urn:BTIH:{HASH.upper()}",
        f"magnet:?xt.1=urn:sha1:ABC&xt.2=urn:btih:{HASH}",
        f"magnet:?xt=urn:btmh:1220{DIGEST}&xt=urn:btih:{HASH}",  # OpenTracker 4: hybrid
        f"magnet%3A%3Fxt%3Durn%3Abtih%3A{HASH}",  # qBittorrent 14635: escaped as a whole
        f"magnet:?xt=urn:btih:{HASH}{'&tr=x' * 1000}",  # qBittorrent 24310: endless trackers
        f"magnet://[?xt=urn:btih:{HASH}",
    ],
)
def test_links_as_other_programs_write_them(text: str) -> None:
    assert parse(text) == WantedTorrent(HASH)


@pytest.mark.parametrize(
    "tail", ["&amp;tr=http%3A%2F%2Ft%2Fa&amp;dn=n", "&tr.1=http%3A%2F%2Ft%2Fa&dn=n&dn=other"]
)
def test_trackers_and_name_of_links_from_web_pages(tail: str) -> None:
    link = f"magnet:?xt=urn:btih:{HASH}{tail}"
    assert parse(link) == WantedTorrent(HASH, ("http://t/a",), name="n")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (f"magnet:?xt=urn:btmh:1220{DIGEST}", "version 2 only; pass the .torrent file"),
        ("magnet:?xt=urn:sha1:ABC", "has no info-hash"),
        ("https://huggingface.co/org/name/tree/main", "write hf://org/name"),
        ("https://hf.co/org/name", "write hf://org/name"),
        ("https://huggingface.co/", "with --url"),
        ("http://[", "with --url"),
        ("org/name", "write hf://org/name"),
    ],
)
def test_what_cannot_be_fetched_is_said_with_what_to_write(text: str, advice: str) -> None:
    with pytest.raises(InvalidParams, match=advice):
        parse(text)


@given(st.text(max_size=60), st.sampled_from(["magnet:", "magnet%3A", "http://", "hf://", ""]))
def test_no_text_is_fatal(text: str, start: str) -> None:
    with contextlib.suppress(InvalidParams):
        parse(start + text)


def test_own_magnet_links_are_understood() -> None:
    link = magnet_link(HASH, "a&b=c", ("http://t/announce?k=1&l=2",))
    assert parse(link) == WantedTorrent(HASH, ("http://t/announce?k=1&l=2",), name="a&b=c")
