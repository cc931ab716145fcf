"""What the Hub said, kept across restarts, so that a commit that was read once can be read again
while the Hub is down. Only of repositories that anybody may read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Final

import aiosqlite

from aitorrent_hub.upstream.described import Described, Place
from aitorrent_hub.upstream.headers import Pairs

MIGRATIONS: Final[Mapping[int, str]] = {
    1: """
    CREATE TABLE revisions (
        repo TEXT NOT NULL, revision TEXT NOT NULL, commit_hash TEXT NOT NULL,
        PRIMARY KEY (repo, revision)
    ) WITHOUT ROWID;
    CREATE TABLE files (
        repo TEXT NOT NULL, commit_hash TEXT NOT NULL, path TEXT NOT NULL,
        digest TEXT NOT NULL, etag TEXT NOT NULL, size INTEGER, content_type TEXT NOT NULL,
        missing INTEGER NOT NULL, used_at REAL NOT NULL,
        PRIMARY KEY (repo, commit_hash, path)
    ) WITHOUT ROWID;
    CREATE TABLE documents (
        target TEXT PRIMARY KEY, repo TEXT NOT NULL, status INTEGER NOT NULL, headers TEXT NOT NULL,
        body BLOB NOT NULL, used_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE visible (repo TEXT PRIMARY KEY, checked_at REAL NOT NULL) WITHOUT ROWID;
    """,
}
MAX_FILES: Final = 200_000
MAX_DOCUMENTS: Final = 2_000
_TRIM_EVERY: Final = 500


class Memory:
    """The plugin's database."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db
        self._written = 0

    async def file(self, place: Place) -> Described | None:
        """The file, as it was described last; None if it is unknown, or known to be missing."""
        row = await self._row(
            "SELECT f.commit_hash, digest, size, content_type, etag, missing FROM files f"
            " LEFT JOIN revisions r ON r.repo = f.repo AND r.commit_hash = f.commit_hash"
            " AND r.revision = :revision WHERE f.repo = :repo AND path = :path"
            " AND (f.commit_hash = :revision OR r.revision IS NOT NULL)",
            place,
        )
        return Described(*row[:5]) if row and not row[5] else None

    async def missing(self, place: Place) -> str:
        """The commit that is known not to have the file; empty if none is."""
        row = await self._row(
            "SELECT f.commit_hash FROM files f LEFT JOIN revisions r ON r.repo = f.repo"
            " AND r.commit_hash = f.commit_hash AND r.revision = :revision WHERE f.repo = :repo"
            " AND path = :path AND missing"
            " AND (f.commit_hash = :revision OR r.revision IS NOT NULL)",
            place,
        )
        return str(row[0]) if row else ""

    async def _row(self, query: str, place: Place) -> tuple[str, str, int, str, str, int] | None:
        named = {"repo": place.repo, "revision": place.revision, "path": place.path}
        async with self._db.execute(query, named) as cursor:
            row = await cursor.fetchone()
        return tuple(row) if row else None

    async def keep_file(self, place: Place, file: Described) -> None:
        """Remember a file."""
        await self._keep(place, file, missing=False)

    async def keep_missing(self, place: Place, commit: str) -> None:
        """Remember that a commit has no such file."""
        await self._keep(place, Described(commit, "", None), missing=True)

    async def _keep(self, place: Place, file: Described, *, missing: bool) -> None:
        if place.revision != file.commit:
            await self._db.execute(
                "INSERT OR REPLACE INTO revisions VALUES (?, ?, ?)",
                (place.repo, place.revision, file.commit),
            )
        await self._db.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(place.repo, file.commit, place.path, file.digest, file.etag, file.size),
                *(file.content_type, missing, time.time()),
            ),
        )
        await self._committed()

    async def document(self, target: str) -> tuple[int, Pairs, bytes] | None:
        """Status, headers and body of an answer that was kept."""
        async with self._db.execute(
            "SELECT status, headers, body FROM documents WHERE target = ?", (target,)
        ) as cursor:
            row = await cursor.fetchone()
        if row is None:
            return None
        return row[0], [(name, value) for name, value in json.loads(row[1])], row[2]

    async def keep_document(
        self, target: str, repo: str, status: int, headers: Pairs, body: bytes
    ) -> None:
        """Remember an answer about a repository."""
        await self._db.execute(
            "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?)",
            (target, repo, status, json.dumps(headers), body, time.time()),
        )
        await self._committed()

    async def visible_at(self, repo: str) -> float | None:
        """When anybody could read the repository last, in seconds since the epoch."""
        async with self._db.execute(
            "SELECT checked_at FROM visible WHERE repo = ?", (repo,)
        ) as cursor:
            row = await cursor.fetchone()
        return float(row[0]) if row else None

    async def keep_visible(self, repo: str) -> None:
        """Remember that anybody can read the repository now."""
        await self._db.execute("INSERT OR REPLACE INTO visible VALUES (?, ?)", (repo, time.time()))
        await self._committed()

    async def forget(self, repo: str) -> None:
        """Forget a repository that not everybody may read any more."""
        for table in ("revisions", "files", "visible"):
            await self._db.execute(f"DELETE FROM {table} WHERE repo = ?", (repo,))
        await self._db.execute("DELETE FROM documents WHERE repo = ?", (repo,))
        await self._committed()

    async def _committed(self) -> None:
        self._written += 1
        if self._written % _TRIM_EVERY == 0:
            for table, most in (("files", MAX_FILES), ("documents", MAX_DOCUMENTS)):
                await self._db.execute(
                    f"DELETE FROM {table} WHERE used_at < (SELECT used_at FROM {table}"
                    " ORDER BY used_at DESC LIMIT 1 OFFSET ?)",
                    (most,),
                )
        await self._db.commit()
