"""Offers files of huggingface_hub's caches for seeding: public ones, and only what verifies."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from aitorrent_hub.files.describing import Describing, Refused
from aitorrent_hub.scan.layout import Candidate, candidates
from aitorrent_hub.upstream.described import Place
from aitorrentd.api import AitorrentError, Denied, NotFound
from aitorrentd.api.models.weights import Published, Weights

State = Literal["seeded", "verified", "small", "wrong", "not public", "unknown", "refused"]
_PART_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a file."""

    candidate: Candidate
    state: State
    reason: str = ""


class Scanning:
    """Looks through directories. Without `weights`, files are only verified."""

    def __init__(
        self,
        describing: Describing,
        weights: Callable[[], Weights | None],
        *,
        smallest: int,
    ) -> None:
        self._describing = describing
        self._weights = weights
        self._smallest = smallest

    async def scan(
        self, directory: Path, repo: str, progress: Callable[[Candidate], None]
    ) -> AsyncIterator[Found]:
        """What `directory` has, file by file.

        Raises:
            NotFound, Denied: it cannot be read.
        """
        try:
            listed = await asyncio.to_thread(lambda: list(candidates(directory, repo)))
        except FileNotFoundError:
            raise NotFound(f"{directory} does not exist") from None
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise Denied(
                f"the daemon cannot read {directory}: {reason}; under systemd it sees no home"
                " directories"
            ) from None
        for candidate in listed:
            progress(candidate)
            yield await self._judge(candidate)

    async def _judge(self, candidate: Candidate) -> Found:
        weights = self._weights()
        if candidate.size < self._smallest:
            return Found(candidate, "small")
        if weights is not None and weights.local(candidate.sha256) is not None:
            return Found(candidate, "seeded")
        if not candidate.repo:
            return Found(candidate, "unknown", "of which repository is not known; give --repo")
        reason = await self._unless_public(candidate)
        if reason:
            return Found(candidate, *reason)
        try:
            if await asyncio.to_thread(_sha256, candidate.path) != candidate.sha256:
                return Found(
                    candidate, "wrong", "not what the Hub has: delete it, and download it again"
                )
            if weights is None:
                return Found(candidate, "verified", "the seeding plugin is not running")
            published = Published(candidate.repo, candidate.commit, candidate.filename)
            await weights.offer(candidate.path, sha256=candidate.sha256, published=published)
        except OSError as e:
            return Found(candidate, "refused", (e.strerror or str(e)).lower())
        except AitorrentError as e:
            return Found(candidate, "refused", e.message)
        return Found(candidate, "seeded")

    async def _unless_public(self, candidate: Candidate) -> tuple[State, str] | None:
        """Why a file is left out; None if anybody may have it."""
        place = Place(candidate.repo, candidate.commit, candidate.filename)
        try:
            file, is_public = await self._describing.describe(place, [])
        except Refused as e:
            return "not public", f"the Hub answers {e.status} without a token"
        except AitorrentError as e:
            return "unknown", e.message
        if not is_public:
            return "not public", ""
        if file.digest != candidate.sha256:
            return "wrong", "the Hub has another file under this name"
        return None


def _sha256(path: Path) -> str:
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            hashed.update(part)
    return hashed.hexdigest()
