"""One file on its way from the Hub: written to disk, hashed as it comes, read by many meanwhile.

Readers get everything but the last byte before the digest is proven. If it is wrong, they are cut
off, and the file is fetched again from its beginning. A part that a crash left is continued.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Final, Protocol

from aitorrent_hub.upstream.described import Described
from aitorrentd.api import AitorrentError, NotFound, ProtocolError, TimedOut, Unavailable
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.faces.asgi import Aborted

PART_BYTES: Final = 1 << 20
_ATTEMPTS: Final = 6
"In a row without a byte; a file of any size may need more in all."
_WRONG: Final = 3
"So many times a file with the wrong digest is fetched before that is an error."
_MAX_UNSIZED_BYTES: Final = 64 * 2**20
"Of a file whose size nobody says."


class Body(Protocol):
    """An answer with the rest of a file."""

    @property
    def status(self) -> int:
        """Of HTTP."""

    @property
    def start(self) -> int:
        """Where its first byte is in the file."""

    @property
    def stop(self) -> int | None:
        """The size of the file, if the answer says it."""

    def parts(self) -> AsyncIterator[bytes]:
        """The bytes."""


Opened = Callable[[int], AbstractAsyncContextManager[Body]]
"Asks the Hub for a file from this byte on."


class Download:
    """A file of which `file.digest` is known. `run` fetches it; anybody may `read` meanwhile."""

    def __init__(self, file: Described, path: Path, opened: Opened, log: logging.Logger) -> None:
        self.file = file
        self.path = path
        "Where the part grows, and stays when it is whole."
        self.size = file.size
        self.done = 0
        "Bytes on disk, from the beginning."
        self.is_whole = False
        self.wrong = 0
        "How often what came had another digest."
        self.restarts = 0
        "How often it began anew because what readers may have got was wrong."
        self.readers = 0
        self.fetched = 0
        "Bytes that came from the Hub."
        self._opened = opened
        self._log = log
        self._error: AitorrentError | None = None
        self._news = asyncio.Event()
        self._hash = hashlib.sha256()

    async def run(self) -> None:
        """Fetch the file; never raises, readers get the error.

        Raises:
            OSError: the disk.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with self.path.open("ab+") as out:
                await self._fetch(out)
        except AitorrentError as e:
            self._error = e
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            self._error = Unavailable(f"cannot write to {self.path.parent}: {reason}")
        finally:
            if not self.is_whole and self._error is None:
                self._error = Unavailable("the node is stopping")
            self._tell()

    async def _fetch(self, out: IO[bytes]) -> None:
        await self._continue(out)
        failures = 0
        while True:
            before = self.done
            try:
                if self.size is None or self.done < self.size:
                    await self._more(out)
                if self.size is None or self.done >= self.size:
                    await self._prove(out)
                    return
                raise Unavailable("the Hub closed the connection early")
            except ProtocolError:
                self.wrong += 1
                self._log.warning(
                    "%s came with wrong bytes, %d times; fetched again", self._what(), self.wrong
                )
                if self.done:
                    self.restarts += 1
                await self._restart(out)
                if self.wrong >= _WRONG:
                    raise
            except (Unavailable, TimedOut) as e:
                failures = 0 if self.done > before else failures + 1
                if failures >= _ATTEMPTS:
                    raise
                self._log.debug("%s: %s; continued", self._what(), e.message)
                await asyncio.sleep(
                    equal_jitter_s(failures, base_s=0.2, cap_s=3.0, draw=random.random())
                )

    async def _continue(self, out: IO[bytes]) -> None:
        """Take over what an earlier run left, by its hash."""
        out.seek(0)
        while part := await asyncio.to_thread(out.read, PART_BYTES):
            await asyncio.to_thread(self._hash.update, part)
            self.done += len(part)
        if self.size is not None and self.done > self.size:
            await self._restart(out)
        self._tell()

    async def _more(self, out: IO[bytes]) -> None:
        async with self._opened(self.done) as body:
            if body.status == 416 or body.start != self.done:
                await self._restart(out)
                if body.status == 416 or body.start:
                    raise Unavailable("the Hub sent another part than it was asked for")
            if self.size is None:
                self.size = body.stop
            elif body.stop is not None and body.stop != self.size:
                raise ProtocolError(f"the Hub sends {body.stop} bytes, and declared {self.size}")
            most = self.size if self.size is not None else _MAX_UNSIZED_BYTES
            async for part in body.parts():
                if self.done + len(part) > most:
                    raise ProtocolError(f"the Hub sends more than {most} bytes")
                await asyncio.to_thread(self._take, out, part)
                self.done += len(part)
                self.fetched += len(part)
                self._tell()
            if self.size is None:
                self.size = self.done

    def _take(self, out: IO[bytes], part: bytes) -> None:
        out.write(part)
        out.flush()
        self._hash.update(part)

    async def _restart(self, out: IO[bytes]) -> None:
        # At once, before readers can take what is still in the file for the new beginning.
        self._hash = hashlib.sha256()
        self.done = 0
        self.size = self.file.size
        await asyncio.to_thread(out.truncate, 0)
        self._tell()

    async def _prove(self, out: IO[bytes]) -> None:
        found = self._hash.hexdigest()
        if not self.file.is_large:
            found = await asyncio.to_thread(git_blob_id, self.path, self.done)
        if found != self.file.digest:
            raise ProtocolError(f"{self._what()} has the digest {found} in what the Hub sent")
        self.is_whole = True

    def _what(self) -> str:
        return f"the file {self.file.digest[:12]}…"

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def finished(self) -> Path:
        """Wait for the whole file.

        Raises:
            AitorrentError: it cannot be had.
        """
        while not self.is_whole:
            self._check()
            await self._news.wait()
        return self.path

    async def sized(self) -> int:
        """Wait for the size of the file.

        Raises:
            AitorrentError: it cannot be had.
        """
        while self.size is None:
            self._check()
            await self._news.wait()
        return self.size

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def read(self, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes of [start, stop) as they come.

        Raises:
            AitorrentError: nothing was read, and the file cannot be had. Aborted: the same, or what
            was read is wrong.
        """
        at, restarts = start, self.restarts
        self.readers += 1
        try:
            with self.path.open("rb") as part:
                while at < stop:
                    if self.restarts != restarts:
                        if at > start:
                            raise Aborted
                        restarts = self.restarts
                    there = self.done if self.is_whole else min(self.done, (self.size or 0) - 1)
                    if there > at:
                        size = min(PART_BYTES, there - at, stop - at)
                        piece = await asyncio.to_thread(os.pread, part.fileno(), size, at)
                        if self.restarts != restarts:
                            continue
                        if not piece:
                            raise Aborted
                        at += len(piece)
                        yield piece
                    else:
                        if self._error is not None and at > start:
                            raise Aborted
                        self._check()
                        await self._news.wait()
        except FileNotFoundError:
            raise NotFound("the file was deleted while it was read") from None
        finally:
            self.readers -= 1


def git_blob_id(path: Path, size: int) -> str:
    """The id that Git gives the file's content (gitformat-loose(5))."""
    hashed = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            hashed.update(part)
    return hashed.hexdigest()
