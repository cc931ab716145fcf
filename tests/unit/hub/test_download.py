"""A file on its way from the Hub, as those see it who read it meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrent_hub.files.download import Download
from aitorrent_hub.upstream.described import Described

RIGHT, WRONG = b"r" * 5000, b"w" * 5000


class Whole:
    """A body that comes at once."""

    status, start, stop = 200, 0, len(RIGHT)

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def parts(self) -> AsyncIterator[bytes]:
        yield self.content


async def test_who_begins_between_wrong_bytes_and_their_removal_gets_the_right_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, go_on = asyncio.Event(), asyncio.Event()

    async def here(function: Callable[..., Any], *arguments: Any) -> Any:
        """In place of a thread; the removal waits."""
        if getattr(function, "__name__", "") == "truncate":
            removing.set()
            await go_on.wait()
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", here)
    bodies = [WRONG, RIGHT]

    @asynccontextmanager
    async def opened(at: int) -> AsyncIterator[Whole]:
        yield Whole(bodies.pop(0))

    path = tmp_path / "part"
    path.touch()
    file = Described("c" * 40, hashlib.sha256(RIGHT).hexdigest(), len(RIGHT))
    download = Download(file, path, opened, logging.getLogger("test.hub"))
    running = asyncio.ensure_future(download.run())
    await removing.wait()

    async def read() -> bytes:
        return b"".join([piece async for piece in download.read(0, len(RIGHT))])

    reading = asyncio.ensure_future(read())
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    assert await reading == RIGHT
    await running
    assert (download.wrong, download.restarts) == (1, 1)
