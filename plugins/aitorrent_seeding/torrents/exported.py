"""A .torrent file for other clients: the metainfo with the trackers that serve it."""

from __future__ import annotations

from collections.abc import Sequence

from aitorrent_seeding.torrents.bencode import decode, encode


def with_trackers(raw: bytes, trackers: Sequence[str]) -> bytes:
    """The .torrent file `raw`, which `metainfo.read` has accepted, announced to `trackers` (BEP 12,
    each in a tier of its own). Its info-hash stays the same.

    Raises:
        ProtocolError: it is no .torrent file.
    """
    top = {
        key: value
        for key, value in decode(raw).value.items()
        if key not in (b"announce", b"announce-list")
    }
    urls = [url.encode() for url in trackers]
    if urls:
        top[b"announce"] = urls[0]
    if len(urls) > 1:
        top[b"announce-list"] = [[url] for url in urls]
    return encode(top)
