"""Torrent files that come with a publication: checked against it, and made anew for downloads."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1, sha256
from typing import Any, Final

from aitorrent_tracker.catalogue.torrents.bdecode import Malformed, decode
from aitorrent_tracker.wire.bencode import Value, bencode
from aitorrentd.api import ProtocolError
from aitorrentd.api.models.file_names import check_path
from aitorrentd.api.models.publications import Publication

MAX_METAINFO_BYTES: Final = 4 * 2**20
"Enough for 200,000 pieces: 3 TiB at 16 MiB each."


def check_metainfo(raw: bytes, publication: Publication) -> None:
    """Check that `raw` is a torrent of exactly the published file.

    Raises:
        ProtocolError: it is not; the message says where they differ.
    """
    if len(raw) > MAX_METAINFO_BYTES:
        raise ProtocolError(f"metainfo must have at most {MAX_METAINFO_BYTES} bytes")
    try:
        decoded = decode(raw)
    except Malformed as e:
        raise ProtocolError(f"metainfo: {e}") from None
    info = decoded.value.get(b"info")
    if not isinstance(info, dict):
        raise ProtocolError("metainfo has no info dictionary")
    start, end = decoded.spans[b"info"]
    span = raw[start:end]
    if sha1(span).hexdigest() != publication.info_hash:
        raise ProtocolError("metainfo has another info-hash than the publication")
    _check_v1(info, publication)
    if info.get(b"meta version") is not None or publication.info_hash_v2:
        if sha256(span).hexdigest() != publication.info_hash_v2:
            raise ProtocolError("metainfo has another v2 info-hash than the publication")
        _check_v2(info, publication)


def _check_v1(info: dict[bytes, Any], publication: Publication) -> None:
    if info.get(b"length") != publication.size or b"files" in info:
        raise ProtocolError("metainfo must be of one file, with the size of the publication")
    if info.get(b"piece length") != publication.piece_length:
        raise ProtocolError("metainfo has another piece length than the publication")
    pieces = info.get(b"pieces")
    count = -(-publication.size // publication.piece_length)
    if not isinstance(pieces, bytes) or len(pieces) != 20 * count:
        raise ProtocolError(f"metainfo must have {count} piece hashes of 20 bytes")
    if b"l" in _bytes(info.get(b"attr")):
        raise ProtocolError("metainfo must not be of a symbolic link")
    try:
        name = _bytes(info.get(b"name")).decode()
        if "/" in check_path(name):
            raise ValueError("must not have a slash")
    except ValueError as e:
        reason = "must be UTF-8" if isinstance(e, UnicodeDecodeError) else e
        raise ProtocolError(f"the name in metainfo {reason}") from None


def _check_v2(info: dict[bytes, Any], publication: Publication) -> None:
    found: Any = info.get(b"file tree")
    for key in (info.get(b"name"), b""):
        found = found.get(key) if isinstance(found, dict) and len(found) == 1 else None
    if (
        not isinstance(found, dict)
        or found.get(b"length") != publication.size
        or _bytes(found.get(b"pieces root")).hex() != publication.v2_root
        or b"l" in _bytes(found.get(b"attr"))
    ):
        raise ProtocolError("the file tree of metainfo is not of the published file")


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def served_metainfo(raw: bytes, trackers: Sequence[str], web_seeds: Sequence[str]) -> bytes:
    """The torrent for a download: the info dictionary byte for byte, and what the catalogue knows.

    Announce URLs, nodes, web seeds and comments that the uploader put beside it are left out. The
    first tracker is the one that the operator wants to be used.
    """
    decoded = decode(raw)
    start, end = decoded.spans[b"info"]
    around: dict[bytes, Value] = {}
    if trackers:
        around[b"announce"] = trackers[0].encode()
        around[b"announce-list"] = [[url.encode()] for url in trackers]
    if web_seeds:
        around[b"url-list"] = [url.encode() for url in web_seeds]
    before = b"".join(
        bencode(key) + bencode(around[key]) for key in sorted(around) if key < b"info"
    )
    after = b"".join(bencode(key) + bencode(around[key]) for key in sorted(around) if key > b"info")
    layers = b""
    if b"piece layers" in decoded.spans:
        first, last = decoded.spans[b"piece layers"]
        layers = bencode(b"piece layers") + raw[first:last]
    return b"d" + before + b"4:info" + raw[start:end] + layers + after + b"e"
