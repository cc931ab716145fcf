"""Files that were fetched over HTTP, and those that are on their way: one download for all readers.

A file is named by its digest. It is whole if the database says so; otherwise it is the part that a
download left, which the next one continues.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import aiosqlite

from aitorrent_hub.files.download import Download, Opened
from aitorrent_hub.upstream.described import Described
from aitorrentd.api.tasks import Tasks

MIGRATION: Final = """
    CREATE TABLE held (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, used_at REAL NOT NULL)
    WITHOUT ROWID;
"""
LINGER_S: Final = 60.0
"How long a download goes on for which nobody waits: a client that lost its connection comes back."
SWEEP_S: Final = 5.0
USED_S: Final = 60.0
"How exactly the time of the last use is known: a write for each range would wear out disks."
WRONG_S: Final = 3600.0
"How long clients that may hold wrong bytes of a file are told to start over."


class Store:
    """The files of one cache directory, up to `most` bytes of whole ones."""

    def __init__(
        self,
        directory: Path,
        db: aiosqlite.Connection,
        tasks: Tasks,
        log: logging.Logger,
        *,
        most: int,
        linger_s: float = LINGER_S,
    ) -> None:
        self._directory = directory
        self._db = db
        self._tasks = tasks
        self._log = log
        self._most = most
        self._linger_s = linger_s
        self._running: dict[str, Download] = {}
        self._ended: dict[str, asyncio.Task[None]] = {}
        self._idle_since: dict[str, float] = {}
        self._wrong_at: dict[str, float] = {}
        self.fetched_bytes = 0
        "From the Hub, since the start."
        self.wrong_files = 0
        "Files that came with wrong bytes, since the start."
        self.when_whole: Callable[[str], Awaitable[None]] | None = None
        "Called with the digest of a file that was fetched and verified."
        self.before_deleting: Callable[[str], Awaitable[None]] | None = None
        "Called with the digest of a file that is about to be deleted."

    def path_of(self, digest: str) -> Path:
        """Where a file is, or will be."""
        return self._directory / digest[:2] / digest

    async def held(self, file: Described) -> Path | None:
        """The path of a whole file, which was verified when it came."""
        async with self._db.execute(
            "SELECT size, used_at FROM held WHERE digest = ?", (file.digest,)
        ) as cursor:
            row = await cursor.fetchone()
        if row is None:
            return None
        path = self.path_of(file.digest)
        try:
            is_there = path.stat().st_size == row[0]
        except OSError:
            is_there = False
        if not is_there:
            await self._forget(file.digest)
            return None
        now = time.time()
        if now - row[1] > USED_S:
            await self._db.execute(
                "UPDATE held SET used_at = ? WHERE digest = ?", (now, file.digest)
            )
            await self._db.commit()
        return path

    def get(self, file: Described, opened: Opened) -> Download:
        """The running download of a file, or a new one that asks the Hub by `opened`."""
        digest = file.digest
        download = self._running.get(digest)
        if download is None:
            path = self.path_of(digest)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            download = self._running[digest] = Download(file, path, opened, self._log)
            self._ended[digest] = self._tasks.spawn(self._run(download), f"hub: {digest[:12]}")
        self._idle_since.pop(digest, None)
        return download

    def may_be_wrong(self, digest: str) -> bool:
        """Whether clients may hold wrong bytes of a file, so that they must start over."""
        running, at = self._running.get(digest), self._wrong_at.get(digest)
        if running is not None and running.restarts:
            return True
        return at is not None and time.monotonic() - at < WRONG_S

    async def _run(self, download: Download) -> None:
        digest = download.file.digest
        try:
            await download.run()
            if download.is_whole:
                await self._db.execute(
                    "INSERT OR REPLACE INTO held VALUES (?, ?, ?)",
                    (digest, download.done, time.time()),
                )
                await self._db.commit()
        finally:
            self._running.pop(digest, None)
            self._ended.pop(digest, None)
            self.fetched_bytes += download.fetched
            self.wrong_files += download.wrong
            if download.restarts:
                self.note_wrong(digest)
        if download.is_whole and self.when_whole is not None:
            await self.when_whole(digest)
        await self.trim(keep=digest)

    def note_wrong(self, digest: str) -> None:
        """Clients may hold wrong bytes of a file."""
        now = time.monotonic()
        self._wrong_at = {d: at for d, at in self._wrong_at.items() if now - at < WRONG_S}
        self._wrong_at[digest] = now

    async def trim(self, keep: str = "") -> None:
        """Delete the files that were not used for the longest time, down to the limit."""
        async with self._db.execute("SELECT digest, size FROM held ORDER BY used_at DESC") as rows:
            held = list(await rows.fetchall())
        total = 0
        for digest, size in held:
            total += size
            if total > self._most and digest != keep and digest not in self._running:
                if self.before_deleting is not None:
                    await self.before_deleting(digest)
                self.path_of(digest).unlink(missing_ok=True)
                await self._forget(digest)

    async def _forget(self, digest: str) -> None:
        await self._db.execute("DELETE FROM held WHERE digest = ?", (digest,))
        await self._db.commit()

    async def sweep(self) -> None:
        """End downloads for which nobody has waited for a while; their parts stay."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self._linger_s))
            now = time.monotonic()
            for digest, download in list(self._running.items()):
                if download.readers:
                    self._idle_since.pop(digest, None)
                elif now - self._idle_since.setdefault(digest, now) >= self._linger_s:
                    self._ended[digest].cancel()

    async def statistics(self) -> Mapping[str, int]:
        """Files and bytes that are held, and downloads that run."""
        async with self._db.execute("SELECT COUNT(*), TOTAL(size) FROM held") as cursor:
            row = await cursor.fetchone()
        files, size = row if row is not None else (0, 0)
        return {"files": files, "bytes": int(size), "downloads": len(self._running)}
