"""Reads .torrent files from strangers (BEP 3, 12, 19, 27, 47, 52): strict, and bounded.

Names become paths on this machine, so each part of a path is checked, and a torrent with a part
that some system reads otherwise is refused rather than repaired. The info-hash is computed over the
bytes as they were sent.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrent_seeding.torrents.bencode import Decoded, Value, decode
from aitorrentd.api import ProtocolError, TooLarge

MAX_BYTES: Final = 64 * 2**20
"A torrent of 1 TiB in pieces of 1 MiB takes 20 MiB."
MAX_FILES: Final = 100_000
MAX_SIZE: Final = 2**50
MIN_PIECE: Final = 16 * 1024
MAX_PIECE: Final = 256 * 2**20
MAX_PIECES: Final = 2_000_000
MAX_PART_BYTES: Final = 255
_SHORT_BYTES: Final = 240
"libtorrent cuts longer names, so that the file would not be where others look for it."
MAX_PARTS: Final = 32
MAX_TRACKERS: Final = 32
MAX_WEB_SEEDS: Final = 16
MAX_URL: Final = 2048
_RESERVED: Final = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE
)
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"Control and formatting characters, such as the override that turns `gpj.exe` around."


@dataclass(frozen=True, slots=True)
class TorrentFile:
    """One file of a torrent; `path` is relative, and its parts are safe."""

    path: tuple[str, ...]
    size: int
    is_padding: bool = False


@dataclass(frozen=True, slots=True)
class Metainfo:
    """What a .torrent file says."""

    raw: bytes
    info_hash: str
    "SHA-1 of the bytes of `info`, or the first 20 bytes of their SHA-256 without a v1 part."
    name: str
    files: tuple[TorrentFile, ...]
    piece_length: int
    is_private: bool
    hashes: bytes
    "SHA-1 of each piece, 20 bytes each; empty without a v1 part."
    is_single: bool
    "Whether it is one file rather than a folder."
    trackers: tuple[str, ...]
    web_seeds: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files, without padding."""
        return sum(file.size for file in self.files if not file.is_padding)

    @property
    def long_names(self) -> dict[int, Path]:
        """The paths with names that libtorrent would shorten, by the number of the file."""
        return {
            index: Path(*file.path)
            for index, file in enumerate(self.files)
            if any(len(part.encode()) > _SHORT_BYTES for part in file.path)
        }

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return -(-sum(file.size for file in self.files) // self.piece_length)

    def pieces_of(self, spans: Iterable[tuple[int, int]]) -> list[int]:
        """The pieces that the byte ranges touch, in the order of the ranges."""
        found: dict[int, None] = {}
        for start, stop in spans:
            last = -(-min(stop, self.size) // self.piece_length)
            found.update(dict.fromkeys(range(max(0, start) // self.piece_length, last)))
        return list(found)


def read(raw: bytes) -> Metainfo:
    """What the .torrent file `raw` says.

    Raises:
        ProtocolError: it is malformed, or a name in it is unsafe. TooLarge: it exceeds a limit.
    """
    if len(raw) > MAX_BYTES:
        raise TooLarge(f"the torrent file has over {MAX_BYTES} bytes")
    try:
        return _read(raw, decode(raw))
    except ProtocolError as e:
        raise ProtocolError(f"the torrent file {e.message}") from None


def _read(raw: bytes, decoded: Decoded) -> Metainfo:
    info = decoded.value.get(b"info")
    if not isinstance(info, dict):
        raise ProtocolError("has no `info` dictionary")
    start, stop = decoded.spans[b"info"]
    has_v1 = b"pieces" in info
    if not has_v1 and info.get(b"meta version") != 2:
        raise ProtocolError("has no pieces")
    spoken = memoryview(raw)[start:stop]
    info_hash = (
        hashlib.sha1(spoken, usedforsecurity=False).hexdigest()
        if has_v1
        else hashlib.sha256(spoken).hexdigest()[:40]
    )
    name = safe_part(info.get(b"name"))
    length = _whole(info.get(b"piece length"), "piece length", MIN_PIECE, MAX_PIECE)
    if length & (length - 1):
        raise ProtocolError(f"has pieces of {length} bytes, which is no power of two")
    files, is_single = _files(info, name) if has_v1 else _tree(info)
    total = sum(file.size for file in files)
    pieces = -(-total // length)
    if not 0 < total <= MAX_SIZE or pieces > MAX_PIECES:
        raise ProtocolError(f"describes {total} bytes in {pieces} pieces, beyond the limits")
    hashes = info.get(b"pieces")
    if has_v1 and (not isinstance(hashes, bytes) or len(hashes) != 20 * pieces):
        raise ProtocolError(f"has no SHA-1 for each of its {pieces} pieces")
    return Metainfo(
        raw=raw,
        info_hash=info_hash,
        name=name,
        files=files,
        piece_length=length,
        is_private=info.get(b"private") == 1,
        hashes=hashes if isinstance(hashes, bytes) else b"",
        is_single=is_single,
        trackers=_trackers(decoded.value),
        web_seeds=_urls(decoded.value.get(b"url-list"), MAX_WEB_SEEDS),
    )


def _files(info: dict[bytes, Value], name: str) -> tuple[tuple[TorrentFile, ...], bool]:
    listed = info.get(b"files")
    if listed is None:
        return (_file(info, (name,)),), True
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_FILES:
        raise ProtocolError(f"has no list of 1 to {MAX_FILES} files")
    files = []
    for entry in listed:
        if not isinstance(entry, dict):
            raise ProtocolError("has a file that is not a dictionary")
        parts = entry.get(b"path")
        if not isinstance(parts, list) or not 0 < len(parts) < MAX_PARTS:
            raise ProtocolError("has a file without a path")
        files.append(_file(entry, (name, *(safe_part(part) for part in parts))))
    _check_distinct(files)
    return tuple(files), False


def _file(entry: dict[bytes, Value], path: tuple[str, ...]) -> TorrentFile:
    attributes = entry.get(b"attr", b"")
    if not isinstance(attributes, bytes) or b"l" in attributes or b"symlink path" in entry:
        raise ProtocolError(f"has a symbolic link ({'/'.join(path)}), which is refused")
    return TorrentFile(
        path, _whole(entry.get(b"length"), "length", 0, MAX_SIZE), b"p" in attributes
    )


def _tree(info: dict[bytes, Value]) -> tuple[tuple[TorrentFile, ...], bool]:
    """The files of a torrent of version 2 alone (BEP 52)."""
    root = info.get(b"file tree")
    if not isinstance(root, dict) or not root:
        raise ProtocolError("has no file tree")
    name = safe_part(info.get(b"name"))
    files: list[TorrentFile] = []
    open_: list[tuple[tuple[str, ...], dict[bytes, Value]]] = [((), root)]
    while open_:
        path, level = open_.pop()
        for key, below in level.items():
            if not isinstance(below, dict):
                raise ProtocolError("has a file tree with something else than dictionaries")
            if b"" in below:
                leaf = below[b""]
                if not isinstance(leaf, dict):
                    raise ProtocolError("has a file that is not a dictionary")
                files.append(_file(leaf, (*path, safe_part(key))))
            else:
                open_.append(((*path, safe_part(key)), below))
            if len(files) > MAX_FILES:
                raise ProtocolError(f"has over {MAX_FILES} files")
    is_single = len(files) == 1 and files[0].path == (name,)
    if not is_single:
        files = [TorrentFile((name, *f.path), f.size, f.is_padding) for f in files]
    _check_distinct(files)
    return tuple(files), is_single


def _check_distinct(files: list[TorrentFile]) -> None:
    """No file under two names, and none below another; systems that ignore case agree."""
    seen: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = set()
    for file in files:
        if file.is_padding:
            continue
        folded = tuple(unicodedata.normalize("NFC", part).casefold() for part in file.path)
        above = {folded[:depth] for depth in range(1, len(folded))}
        if folded in seen or folded in folders or above & seen:
            raise ProtocolError(f"has {'/'.join(file.path)} twice, or below another file")
        seen.add(folded)
        folders |= above


def safe_part(part: object) -> str:
    """One part of a path, if every system takes it for a plain name.

    Raises:
        ProtocolError: it is not.
    """
    if not isinstance(part, bytes):
        raise ProtocolError("has a name that is not a string")
    try:
        text = part.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"has a name that is not UTF-8: {part[:64]!r}") from None
    if not is_plain(text):
        raise ProtocolError(f"has an unsafe name: {text[:64]!r}")
    return text


def is_plain(text: str) -> bool:
    """Whether every system reads `text` as the name of a file, and as nothing else."""
    return (
        0 < len(text.encode(errors="surrogatepass")) <= MAX_PART_BYTES
        and not set(text) & set('/\\\0<>:"|?*')
        and not any(unicodedata.category(c) in _UNSEEN for c in text)
        and text.strip(" ") == text
        and not text.endswith(".")
        and not _RESERVED.fullmatch(text)
        and not _DRIVE.match(text)
    )


def _whole(value: Value | None, name: str, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ProtocolError(f"has no `{name}` from {low} to {high}")
    return value


def _trackers(top: dict[bytes, Value]) -> tuple[str, ...]:
    tiers = top.get(b"announce-list")
    found: list[Value] = [top[b"announce"]] if b"announce" in top else []
    for tier in tiers if isinstance(tiers, list) else ():
        found += tier if isinstance(tier, list) else ()
    return _urls(found, MAX_TRACKERS, schemes=("http://", "https://", "udp://"))


def _urls(
    value: Value | None, most: int, *, schemes: tuple[str, ...] = ("http://", "https://")
) -> tuple[str, ...]:
    """The URLs among `value` with one of the schemes; others are left out, as BEP 19 allows."""
    listed = [value] if isinstance(value, bytes) else value if isinstance(value, list) else []
    found = []
    for one in listed:
        text = one.decode("ascii", "replace") if isinstance(one, bytes) else ""
        if text.startswith(schemes) and len(text) <= MAX_URL and text.isprintable():
            found.append(text)
    return tuple(dict.fromkeys(found))[:most]
