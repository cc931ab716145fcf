"""Weights: files of models, named by their SHA-256 and fetched from a swarm, from the web, or both.

A digest from the Hub over TLS, from a signed publication or from the user is proven over the whole
file before its path is given out. A range rests on the piece hashes of a torrent, so it is as
trustworthy as whoever published that torrent.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import Registry, ServiceKey

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

Span = tuple[int, int]
"A byte range of a file: its first byte, and the byte after its last."


def is_sha256(text: str) -> bool:
    """Whether `text` is a SHA-256 as it is written here: 64 lower-case hexadecimal digits."""
    return bool(_SHA256.fullmatch(text))


@dataclass(frozen=True, slots=True)
class WebSource:
    """An HTTP(S) address that serves the bytes of a file, with ranges."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    "Sent with each request. They may hold a token, so they are neither logged nor published."


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file by its digest."""

    sha256: str
    "64 lower-case hexadecimal digits."
    size: int
    "Bytes; 0 = unknown."
    name: str
    "What people call it; never used as a path."
    sources: tuple[WebSource, ...] = ()


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file that its origin names by a Git blob id only, and that no swarm carries."""

    git_sha1: str
    "SHA-1 over `blob <size>\\0` and the content, 40 lower-case hexadecimal digits."
    size: int
    name: str
    sources: tuple[WebSource, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """Where a file was published; empty strings if unknown."""

    repo_id: str = ""
    revision: str = ""
    filename: str = ""


@dataclass(frozen=True, slots=True)
class KnownTorrent:
    """How a swarm can be joined for a file."""

    sha256: str
    size: int
    info_hash: str
    "SHA-1 of the v1 `info` dictionary, 40 lower-case hexadecimal digits."
    piece_length: int
    trackers: tuple[str, ...] = ()
    metainfo: bytes = b""
    "The .torrent file; empty if it has to come from peers."
    v2_root: str = ""
    "BEP 52 `pieces root` in hexadecimal; empty if unknown."
    publisher: PeerId | None = None
    "Who vouches for the torrent; None if nobody signed it."


class TorrentIndex(Protocol):
    """Where torrents are found by the digest of their file."""

    async def find(self, sha256: str) -> Sequence[KnownTorrent]:
        """Torrents of that file, the most trusted first; empty if there are none.

        Raises:
            Unavailable, TimedOut: the index cannot be asked now.
        """

    async def publish(self, torrent: KnownTorrent, source: Published) -> Sequence[str]:
        """Enter a torrent that this node seeds.

        Returns announce URLs of trackers that serve it from now on; the node announces itself there
        so that those who find the torrent in the index find the node.

        Raises:
            AitorrentError: the index refused it, or cannot be reached now.
        """


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of one revision of a model, each with its path in the repository."""

    name: str
    revision: str
    files: tuple[tuple[str, WantedFile | SmallFile], ...]


class ModelNames(Protocol):
    """What names of one scheme, such as `hf://org/name`, stand for."""

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        """The files of `name`, which is written without the scheme; "" = the newest revision.

        Raises:
            NotFound: no such model or revision. Denied, Unavailable, TimedOut: as the origin says.
        """


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a fetch is; all sizes in bytes."""

    done: int
    total: int
    bytes_per_s: float
    peers: int
    from_peers: int
    from_web: int


class Fetch(Protocol):
    """A file on its way. It goes on until `release`; what arrived is kept and seeded."""

    def progress(self) -> FetchProgress:
        """The state now."""

    async def wait(self) -> Path:
        """Wait for the whole file; its SHA-256 is verified, and the file never changes again.

        Raises:
            NotFound: no source has it. Unavailable: the disk is full, or all sources failed.
            ProtocolError: what the sources sent does not have this digest.
        """

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """The bytes of [start, stop) in order, verified piece by piece, as they arrive.

        These pieces get deadlines: they arrive before the rest.
        """

    async def want(self, ranges: Sequence[Span]) -> Path:
        """Fetch only these ranges, in this order of priority, and wait for them.

        Returns the path of the file, in which other bytes may be missing (zeros). Pieces at the
        edges of the ranges are fetched whole.
        """

    def release(self) -> None:
        """No longer wait for it; a fetch that nobody waits for is paused."""


class Weights(Protocol):
    """Fetches, verifies and seeds files of models. Provided by the seeding plugin."""

    async def fetch(self, file: WantedFile, *, ranges: Sequence[Span] | None = None) -> Fetch:
        """Start to fetch a file, or join a fetch that runs; with `ranges` only those bytes.

        Raises:
            InvalidParams: the digest is malformed. NotFound: nobody is known to have the file.
            Unavailable: there is no room for it.
        """

    def local(self, sha256: str) -> Path | None:
        """The path of a whole file that was verified here, if it is still there."""

    async def offer(
        self, path: Path, *, sha256: str = "", published: Published | None = None
    ) -> str:
        """Seed a file where it lies, without a copy; returns its SHA-256.

        Raises:
            Conflict: the file does not have the digest `sha256`. NotFound, Denied: it cannot be
            read, or is not a regular file.
        """

    async def withdraw(self, sha256: str) -> None:
        """Stop seeding a file. Files that were fetched stay on disk until they are removed.

        Raises:
            NotFound: no such file is seeded.
        """


WEIGHTS: Final = ServiceKey[Weights]("weights.v1")
"Fetches, verifies and seeds files of models."
TORRENT_INDEXES: Final = ServiceKey[Registry[TorrentIndex]]("weights.indexes.v1")
"Where torrents are found and published; plugins add theirs, such as `catalogue`."
MODEL_NAMES: Final = ServiceKey[Registry[ModelNames]]("weights.names.v1")
"Schemes of model names, such as `hf`; plugins add theirs."
