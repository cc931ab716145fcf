"""The table of torrents that outlives a restart: metainfo, fastresume and files of each.

SQLite writes a row as a whole or not at all, so a crash leaves the last saved state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiosqlite
from pydantic import BaseModel, ConfigDict

from aitorrent_seeding.library.keeping import boot_id
from aitorrent_seeding.torrents.hashing import Stamp
from aitorrentd.api.models.weights import Published

MIGRATIONS: Final = {
    1: """
    CREATE TABLE torrents (
        info_hash TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        metainfo BLOB NOT NULL,
        resume BLOB NOT NULL,
        added_at REAL NOT NULL
    );
    """
}


class Limits(BaseModel):
    """Limits of one torrent; None stands for the one in the configuration."""

    model_config = ConfigDict(frozen=True)

    upload_bps: int = 0
    "0 = unlimited."
    download_bps: int = 0
    ratio: float | None = None
    seed_s: float | None = None


class Held(BaseModel):
    """What is saved of a torrent, besides its metainfo and its fastresume."""

    model_config = ConfigDict(frozen=True)

    info_hash: str
    sha256: str = ""
    "Of the only file; empty for torrents that others made."
    name: str
    size: int
    save_path: Path
    own_path: Path | None = None
    "A file of the user that is seeded where it lies; never written, never deleted."
    added_at: float
    is_whole: bool = False
    "Whether everything was verified."
    stamp: Stamp | None = None
    "What the file looked like when it was verified."
    boot: str = ""
    "The start of the machine in which it was verified, until its bytes are surely on the disk."
    is_paused: bool = False
    limit_reached: str = ""
    "The limit that paused it; empty if the user did."
    published: Published = Published()
    trackers: tuple[str, ...] = ()
    web: tuple[str, ...] = ()
    "Web addresses of the file, while it is fetched; none that needs a token."
    wanted: tuple[tuple[int, int], ...] | None = None
    "The byte ranges that are fetched; None = everything."
    limits: Limits = Limits()
    uploaded: int = 0
    "Bytes sent in earlier runs, since it is whole."
    seeded_s: float = 0.0
    "Seconds seeded in earlier runs."

    @property
    def path(self) -> Path:
        """Where the file, or the folder, lies."""
        return self.own_path or self.save_path / (self.sha256 or self.name)

    def is_still(self, stamp: Stamp | None) -> bool:
        """Whether it is whole and, as its file has `stamp`, what was verified."""
        return self.is_whole and stamp == self.stamp and self.boot in ("", boot_id())

    def changed(self, **fields: object) -> Held:
        """This with other values in some fields."""
        return self.model_copy(update=fields)


class Store:
    """The table; `held` is all that it says."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db
        self.held: dict[str, Held] = {}

    async def load(self) -> None:
        """Read the table."""
        query = "SELECT info_hash, state FROM torrents ORDER BY added_at"
        async with self._db.execute(query) as cursor:
            async for info_hash, state in cursor:
                self.held[info_hash] = Held.model_validate_json(state)

    async def parts(self, info_hash: str) -> tuple[bytes, bytes]:
        """The metainfo and the fastresume of a torrent."""
        query = "SELECT metainfo, resume FROM torrents WHERE info_hash = ?"
        async with self._db.execute(query, (info_hash,)) as cursor:
            async for metainfo, resume in cursor:
                return bytes(metainfo), bytes(resume)
        return b"", b""

    async def add(self, held: Held, metainfo: bytes) -> None:
        """Add a torrent, or replace one."""
        self.held[held.info_hash] = held
        await self._db.execute(
            "INSERT OR REPLACE INTO torrents VALUES (?, ?, ?, x'', ?)",
            (held.info_hash, held.model_dump_json(), metainfo, held.added_at),
        )
        await self._db.commit()

    async def change(self, info_hash: str, **fields: object) -> Held | None:
        """Change what is saved of a torrent, if it is there."""
        if (before := self.held.get(info_hash)) is None:
            return None
        after = self.held[info_hash] = before.changed(**fields)
        if after != before:
            await self._db.execute(
                "UPDATE torrents SET state = ? WHERE info_hash = ?",
                (after.model_dump_json(), info_hash),
            )
            await self._db.commit()
        return after

    async def save_resume(self, states: Sequence[tuple[str, bytes]]) -> None:
        """Save the fastresume of several torrents in one transaction."""
        await self._db.executemany(
            "UPDATE torrents SET resume = ? WHERE info_hash = ?",
            [(resume, info_hash) for info_hash, resume in states],
        )
        await self._db.commit()

    async def remove(self, info_hash: str) -> None:
        """Forget a torrent."""
        self.held.pop(info_hash, None)
        await self._db.execute("DELETE FROM torrents WHERE info_hash = ?", (info_hash,))
        await self._db.commit()

    def of_file(self, sha256: str) -> Held | None:
        """The torrent of a file; a whole one first."""
        found = [one for one in self.held.values() if sha256 and one.sha256 == sha256]
        return next((one for one in found if one.is_whole), found[0] if found else None)
