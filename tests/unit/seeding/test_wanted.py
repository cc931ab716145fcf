"""What a user can ask for."""

from __future__ import annotations

import base64

import pytest

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


def test_own_magnet_links_are_understood() -> None:
    link = magnet_link(HASH, "a&b=c", ("http://t/announce?k=1&l=2",))
    assert parse(link) == WantedTorrent(HASH, ("http://t/announce?k=1&l=2",), name="a&b=c")
