"""Room on the disk: a download that no longer fits stops before the disk is full.

libtorrent must not meet a full disk: after a write that found no space, 2.1.1 may wait for that
write for ever. So what every download still has to write is compared with what is free, when it
starts, when more is wanted, and twice a second, since others write to the disk too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aitorrentd.api import Unavailable, bytes_text

_EVERY_S: Final = 0.5
_BLOCK: Final = 512
"Of `st_blocks`, on every file system."
_SPARE: Final = 2**20
"For what the file system itself writes down of a file."


@dataclass(frozen=True, slots=True)
class Claim:
    """What the files of a download will occupy."""

    directory: Path
    "Where they lie, or will lie."
    files: tuple[Path, ...]
    size: int
    "Bytes, with those that are already written."


@dataclass(frozen=True, slots=True)
class _Watched:
    claim: Callable[[], Claim | None]
    stop: Callable[[str], None]


class Room:
    """The downloads of this node, in the order in which they came."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}

    def enter(
        self, key: str, claim: Callable[[], Claim | None], stop: Callable[[str], None]
    ) -> None:
        """Watch a download until it leaves. `claim` returns None while it writes nothing; `stop` is
        called with the reason when it no longer fits."""
        self._watched[key] = _Watched(claim, stop)

    def leave(self, key: str) -> None:
        """No longer watch a download."""
        self._watched.pop(key, None)

    async def shortage(self, claim: Claim, *, key: str = "") -> str:
        """Why a download does not fit beside the others; empty if it does. `key` is its own."""
        others = [
            found
            for other, watched in self._watched.items()
            if other != key and (found := watched.claim())
        ]
        short = await asyncio.to_thread(_shortages, [*others, claim])
        return short[-1]

    async def check(self, claim: Claim) -> None:
        """That a new download fits beside the others.

        Raises:
            Unavailable: it does not.
        """
        if short := await self.shortage(claim):
            raise Unavailable(short)

    async def watch(self) -> None:
        """Stop downloads that no longer fit, the latest first, for as long as this runs."""
        while True:
            await asyncio.sleep(_EVERY_S)
            claims = [
                (claim, watched)
                for watched in self._watched.values()
                if (claim := watched.claim()) is not None
            ]
            short = await asyncio.to_thread(_shortages, [claim for claim, _ in claims])
            for (_, watched), why in zip(claims, short, strict=True):
                if why and watched.claim() is not None:
                    watched.stop(why)


def _shortages(claims: Sequence[Claim]) -> list[str]:
    """For each of the claims why it does not fit beside those before it; empty if it does."""
    left: dict[int, int] = {}
    texts = []
    for claim in claims:
        there = _existing(claim.directory)
        try:
            disk, needed = os.stat(there).st_dev, claim.size - _written(claim.files)
            needed += _SPARE if needed > 0 else 0
            if disk not in left:
                left[disk] = free_bytes(there)
        except OSError:  # libtorrent will tell
            texts.append("")
            continue
        texts.append(_text(there, left[disk], needed) if needed > left[disk] else "")
        if needed <= left[disk]:
            left[disk] -= max(0, needed)
    return texts


def _text(where: Path, free: int, needed: int) -> str:
    return (
        f"the disk is full: {where} has {bytes_text(max(0, free))} left for this download, which"
        f" needs {bytes_text(needed)}; free some space there, or set plugins.seeding.directory"
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _written(files: Iterable[Path]) -> int:
    """Bytes of the disk that files occupy; those that are not there occupy none."""
    total = 0
    for file in files:
        try:
            total += os.stat(file).st_blocks * _BLOCK
        except FileNotFoundError:
            continue
    return total


def free_bytes(path: Path) -> int:
    """Bytes that this process may still write in the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
