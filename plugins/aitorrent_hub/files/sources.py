"""Where the content of a file comes from: this machine, a swarm, or the Hub."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final

from aitorrent_hub.files.download import PART_BYTES, Download, Opened
from aitorrent_hub.files.store import Store
from aitorrent_hub.upstream.described import Described, Place, target_of
from aitorrentd.api import AitorrentError, NotFound, TimedOut
from aitorrentd.api.faces.asgi import Aborted
from aitorrentd.api.models.weights import (
    Fetch,
    Published,
    TorrentIndex,
    WantedFile,
    WebSource,
    Weights,
)
from aitorrentd.api.tasks import beside

FIND_S: Final = 2.5
"For an index of torrents; HTTP is used if none knows the file by then."
FIRST_S: Final = 4.0
"For the first bytes from a swarm; after that, the Hub is asked. Clients wait 10 s."
NEXT_S: Final = 6.0
"For the next ones."
POLL_S: Final = 0.5
"Between two reports of progress."


class Sources:
    """The content of files. `weights` is the seeding plugin's service, or None without it."""

    def __init__(
        self,
        store: Store,
        weights: Callable[[], Weights | None],
        indexes: Callable[[], Iterable[TorrentIndex]],
        log: logging.Logger,
        *,
        swarm_min: int,
        seed: bool,
        origin: str,
        first_s: float = FIRST_S,
    ) -> None:
        self.store = store
        self._weights = weights
        self._indexes = indexes
        self._log = log
        self._swarm_min = swarm_min
        self._seed = seed
        self._origin = origin
        self._public: dict[str, tuple[Described, Place]] = {}
        "Public files on their way, by digest."
        self._first_s = first_s
        self.sent: dict[str, int] = {"here": 0, "swarm": 0, "hub": 0}
        "Bytes to programs since the start, by where they came from."

    async def here(self, file: Described) -> Path | None:
        """The path of the whole file, if it is on this machine and was verified."""
        weights = self._weights()
        if weights is not None and file.is_large:
            path = weights.local(file.digest)
            if path is not None and path.is_file():
                return path
        return await self.store.held(file)

    async def size(self, file: Described, opened: Opened) -> int:
        """The size of the file, which the Hub may tell only with its content.

        Raises:
            AitorrentError: it cannot be had.
        """
        if file.size is not None:
            return file.size
        path = await self.here(file)
        return path.stat().st_size if path else await self.store.get(file, opened).sized()

    async def read(
        self, file: Described, place: Place | None, opened: Opened, start: int, stop: int
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of [start, stop), verified as far as that is possible before the end of the
        file. `place`, at a commit, names a file that anybody may have; None keeps it out of swarms.

        Raises:
            AitorrentError: before the first byte. Aborted: after it, or a client got wrong bytes.
        """
        path = await self.here(file)
        if path is not None:
            if place is not None and path == self.store.path_of(file.digest):
                self._public[file.digest] = (file, place)
                await self.offer(file.digest)  # of no effect if it is seeded
            async with aclosing(_file_parts(path, start, stop)) as parts:
                async for part in parts:
                    self.sent["here"] += len(part)
                    yield part
            return
        fetch = await self._swarm(file, place)
        came = self._come(fetch, file, place, opened, start, stop)
        if fetch is not None and start == 0 and stop == file.size:
            came = self._proven(came, file.digest)
        async with aclosing(came):
            async for part in came:
                yield part

    async def _come(
        self,
        fetch: Fetch | None,
        file: Described,
        place: Place | None,
        opened: Opened,
        start: int,
        stop: int,
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from a swarm, and from the Hub when it stops."""
        at = start
        if fetch is not None:
            async with aclosing(self._from_swarm(fetch, start, stop)) as parts:
                async for part in parts:
                    at += len(part)
                    self.sent["swarm"] += len(part)
                    yield part
        if at >= stop:
            return
        download = self._download(file, place, opened)
        async with aclosing(download.read(at, stop)) as parts:
            try:
                async for part in parts:
                    self.sent["hub"] += len(part)
                    yield part
            except AitorrentError:
                if at > start:
                    raise Aborted from None
                raise

    async def _proven(
        self, parts: AsyncGenerator[bytes, None], digest: str
    ) -> AsyncGenerator[bytes, None]:
        """The parts of a whole file; the last one only if all together have the digest: a swarm
        verifies pieces against a torrent, which somebody else may have made."""
        hashed, held = hashlib.sha256(), b""
        async with aclosing(parts):
            async for part in parts:
                if held:
                    yield held
                await asyncio.to_thread(hashed.update, part)
                held = part
        if hashed.hexdigest() != digest:
            self._log.warning("a swarm sent wrong bytes of %s…", digest[:12])
            self.store.note_wrong(digest)
            raise Aborted
        yield held

    async def whole(
        self,
        file: Described,
        place: Place | None,
        opened: Opened,
        progress: Callable[[int], None],
    ) -> Path:
        """The path of the whole, verified file; `progress` gets the bytes so far.

        Raises:
            AitorrentError: it cannot be had.
        """
        path = await self.here(file)
        if path is not None:
            return path
        fetch = await self._swarm(file, place)
        if fetch is not None:
            path = await self._whole_from_swarm(fetch, progress)
            if path is not None:
                return path
        download = self._download(file, place, opened)
        download.readers += 1
        try:
            async with beside(download.finished(), "hub: wait") as waiting:
                while not (await asyncio.wait({waiting}, timeout=POLL_S))[0]:
                    progress(download.done)
                path = waiting.result()
        finally:
            download.readers -= 1
        return path

    def _download(self, file: Described, place: Place | None, opened: Opened) -> Download:
        if place is not None:
            self._public[file.digest] = (file, place)
        return self.store.get(file, opened)

    async def offer(self, digest: str) -> None:
        """Seed a file that was fetched from the Hub, if it is public."""
        file, place = self._public.pop(digest, (None, None))
        weights = self._weights()
        if file is None or place is None or weights is None or not self._seed:
            return
        if not file.is_large or (file.size or 0) < self._swarm_min:
            return
        path = await self.store.held(file)
        if path is None or weights.local(digest) is not None:
            return
        published = Published(place.repo, file.commit, place.path)
        try:
            await weights.offer(path, sha256=file.digest, published=published)
        except AitorrentError as e:
            self._log.info("%s is not seeded: %s", place.path, e.message)

    async def forget(self, digest: str) -> None:
        """Stop seeding a file that is about to be deleted."""
        weights = self._weights()
        if weights is not None and len(digest) == 64:
            with suppress(NotFound):
                await weights.withdraw(digest)

    async def _swarm(self, file: Described, place: Place | None) -> Fetch | None:
        weights = self._weights()
        if weights is None or place is None or not file.is_large:
            return None
        if file.size is None or file.size < self._swarm_min:
            return None
        if not await self._is_shared(file.digest):
            return None
        web = WebSource(self._origin + target_of(place))
        wanted = WantedFile(file.digest, file.size, place.path, (web,))
        try:
            async with asyncio.timeout(self._first_s):
                return await weights.fetch(wanted)
        except (AitorrentError, TimeoutError) as e:
            self._log.debug("%s is fetched over HTTP: %s", place.path, e)
            return None

    async def _is_shared(self, digest: str) -> bool:
        """Whether an index knows a swarm; without one, the file comes from the Hub alone."""
        indexes = self._indexes()

        async def knows(index: TorrentIndex) -> bool:
            try:
                async with asyncio.timeout(FIND_S):
                    return bool(await index.find(digest))
            except (AitorrentError, TimeoutError) as e:
                self._log.debug("an index of torrents does not answer: %s", e)
                return False

        return any(await asyncio.gather(*map(knows, indexes)))

    async def _from_swarm(self, fetch: Fetch, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """What comes in time; ends early otherwise."""
        wait_s = self._first_s
        try:
            async with aclosing(_closable(fetch.read(start, stop))) as parts:
                while True:
                    async with asyncio.timeout(wait_s):
                        part = await anext(parts, b"")
                    if not part:
                        return
                    yield part
                    wait_s = NEXT_S
        except (AitorrentError, TimeoutError) as e:
            self._log.debug("a swarm stopped: %s", e)
        finally:
            fetch.release()

    async def _whole_from_swarm(self, fetch: Fetch, progress: Callable[[int], None]) -> Path | None:
        loop = asyncio.get_running_loop()
        done, since = -1, loop.time()
        try:
            async with beside(fetch.wait(), "hub: swarm") as waiting:
                while not (await asyncio.wait({waiting}, timeout=POLL_S))[0]:
                    now = fetch.progress().done
                    progress(now)
                    if now > done:
                        done, since = now, loop.time()
                    elif loop.time() - since > self._first_s + NEXT_S:
                        raise TimedOut("the swarm sends nothing")
                return waiting.result()
        except AitorrentError as e:
            self._log.debug("fetched over HTTP: %s", e.message)
            return None
        finally:
            fetch.release()


async def _closable(parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async for part in parts:
        yield part


async def _file_parts(path: Path, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    with path.open("rb") as file:
        at = start
        while at < stop:
            size = min(PART_BYTES, stop - at)
            part = await asyncio.to_thread(os.pread, file.fileno(), size, at)
            if not part:
                raise Aborted
            at += len(part)
            yield part
