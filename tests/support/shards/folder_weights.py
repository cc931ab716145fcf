"""Weights from a folder instead of a swarm: in pieces, counted, without a network."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from aitorrentd.api import AitorrentError, NotFound
from aitorrentd.api.models.weights import (
    Fetch,
    FetchProgress,
    ModelFiles,
    Published,
    Span,
    WantedFile,
)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class FolderWeights:
    """Implements api `Weights`: files of `swarm` folders, fetched into `store` piece by piece."""

    def __init__(self, swarm: Iterable[Path], store: Path, *, piece: int = 4096) -> None:
        self.files = {digest_of(path): path for path in swarm}
        self.store = store
        self.piece = piece
        self.fetched_bytes = 0
        self.problem: AitorrentError | None = None
        "Raised by each fetch."
        self.released = 0
        self.offered: dict[str, Path] = {}
        store.mkdir(parents=True, exist_ok=True)

    async def fetch(self, file: WantedFile, *, ranges: Sequence[Span] | None = None) -> Fetch:
        """As api Weights."""
        if self.problem is not None:
            raise self.problem
        if file.sha256 not in self.files:
            raise NotFound(f"nobody is known to have {file.name}")
        fetch = FolderFetch(self, self.files[file.sha256], self.store / file.sha256)
        if ranges is None:
            await fetch.wait()
        return fetch

    def local(self, sha256: str) -> Path | None:
        """As api Weights."""
        return self.offered.get(sha256)

    async def offer(
        self, path: Path, *, sha256: str = "", published: Published | None = None
    ) -> str:
        """As api Weights."""
        found = await asyncio.to_thread(digest_of, path)
        self.files.setdefault(found, path)
        self.offered[found] = path
        return found

    async def withdraw(self, sha256: str) -> None:
        """As api Weights."""
        del self.offered[sha256]


class FolderFetch:
    """Implements api `Fetch`."""

    def __init__(self, weights: FolderWeights, origin: Path, path: Path) -> None:
        self._weights = weights
        self._origin = origin
        self._path = path
        self._have: set[int] = set()
        self._size = origin.stat().st_size

    def progress(self) -> FetchProgress:
        """As api Fetch."""
        done = min(len(self._have) * self._weights.piece, self._size)
        return FetchProgress(done, self._size, 0.0, 1, done, 0)

    async def wait(self) -> Path:
        """As api Fetch."""
        return await self.want([(0, self._size)])

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """As api Fetch."""
        await self.want([(start, stop)])
        yield self._path.read_bytes()[start:stop]

    async def want(self, ranges: Sequence[Span]) -> Path:
        """As api Fetch."""
        await asyncio.sleep(0)
        size = self._weights.piece
        self._path.touch()
        with self._path.open("r+b") as target, self._origin.open("rb") as origin:
            target.truncate(self._size)
            for start, end in ranges:
                for piece in range(start // size, -(-end // size)):
                    if piece in self._have:
                        continue
                    self._have.add(piece)
                    origin.seek(piece * size)
                    target.seek(piece * size)
                    data = origin.read(size)
                    self._weights.fetched_bytes += len(data)
                    target.write(data)
        return self._path

    def release(self) -> None:
        """As api Fetch."""
        self._weights.released += 1


class OneModel:
    """Implements api `ModelNames`: one model, while `problem` is None."""

    def __init__(self, model: ModelFiles) -> None:
        self.model = model
        self.problem: AitorrentError | None = None
        self.asked: list[tuple[str, str]] = []

    async def resolve(self, name: str, revision: str = "") -> ModelFiles:
        """As api ModelNames."""
        self.asked.append((name, revision))
        if self.problem is not None:
            raise self.problem
        return self.model


def files_in(folder: Path, name: str = "org/toy") -> ModelFiles:
    """The files of a model's folder, as an origin that knows the SHA-256 of each."""
    return ModelFiles(
        name=name,
        revision="c" * 40,
        files=tuple(
            (path.name, WantedFile(digest_of(path), path.stat().st_size, path.name))
            for path in sorted(folder.iterdir())
        ),
    )
