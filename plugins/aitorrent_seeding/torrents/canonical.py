"""Canonical torrents: whoever has a file derives the same info-hash from it, with no coordination.

One file makes one torrent. Its `info` has `length`, `name`, `piece length` and `pieces`, besides
`private` in a private network, and nothing else: no dates, no tracker, no creator. The name is the
SHA-256 of the file in hexadecimal, without a suffix, so that a copy under another name is in the
same swarm. A hybrid torrent adds the keys of BEP 52.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_seeding.torrents.bencode import encode

MIB: Final = 2**20
GIB: Final = 2**30
BLOCK: Final = 16 * 1024
"BEP 52: the leaves of a file's Merkle tree."
PIECE_LENGTHS: Final = ((16 * GIB, 4 * MIB), (64 * GIB, 8 * MIB))
LARGEST_PIECE: Final = 16 * MIB


def piece_length(size: int) -> int:
    """Bytes of a piece of a file of `size` bytes: 4 MiB below 16 GiB, 8 MiB below 64 GiB, 16
    MiB."""
    return next((length for below, length in PIECE_LENGTHS if size < below), LARGEST_PIECE)


@dataclass(frozen=True, slots=True)
class FileHashes:
    """What one pass over a file yields."""

    size: int
    sha256: str
    piece_length: int
    pieces: bytes
    "SHA-1 of each piece, 20 bytes each."
    layer: bytes = b""
    "BEP 52: the Merkle root of each piece, 32 bytes each; empty without a hybrid torrent."


def metainfo(hashes: FileHashes, *, private: bool = False) -> bytes:
    """The canonical .torrent file; a hybrid one if the hashes of BEP 52 are there."""
    name = hashes.sha256.encode()
    about: dict[bytes, object] = {
        b"length": hashes.size,
        b"name": name,
        b"piece length": hashes.piece_length,
        b"pieces": hashes.pieces,
    }
    if private:
        about[b"private"] = 1
    if not hashes.layer:
        return encode({b"info": about})
    root = v2_root(hashes)
    about[b"meta version"] = 2
    about[b"file tree"] = {name: {b"": {b"length": hashes.size, b"pieces root": root}}}
    has_layer = hashes.size > hashes.piece_length
    return encode({b"info": about, b"piece layers": {root: hashes.layer} if has_layer else {}})


def v2_root(hashes: FileHashes) -> bytes:
    """BEP 52 `pieces root` of the file, 32 bytes."""
    nodes = [hashes.layer[i : i + 32] for i in range(0, len(hashes.layer), 32)]
    if hashes.size <= hashes.piece_length:
        return nodes[0]
    return merkle_root(nodes, padding=_zero_root(hashes.piece_length // BLOCK))


def merkle_root(nodes: Sequence[bytes], *, padding: bytes = bytes(32)) -> bytes:
    """The root over `nodes`, which are filled up with `padding` to a power of two."""
    level = list(nodes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(padding)
        level = [hashlib.sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
        padding = hashlib.sha256(padding + padding).digest()
    return level[0]


def _zero_root(leaves: int) -> bytes:
    """The root over `leaves` (a power of two) that are all zeros."""
    root = bytes(32)
    while leaves > 1:
        root = hashlib.sha256(root + root).digest()
        leaves //= 2
    return root
