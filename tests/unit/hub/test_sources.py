"""Where bytes come from when a swarm lies, stalls or ends early: wrong ones never arrive whole."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from aitorrent_hub.files import sources
from aitorrent_hub.files.memory import MIGRATIONS
from aitorrent_hub.files.sources import Sources
from aitorrent_hub.files.store import MIGRATION, Store
from aitorrent_hub.upstream.asking import FileBody
from aitorrent_hub.upstream.described import Described, Place
from aitorrentd.api import NotFound, Unavailable
from aitorrentd.api.faces.asgi import Aborted
from aitorrentd.api.models.weights import FetchProgress
from aitorrentd.api.tasks import Tasks
from tests.support.nodes import wait_for
from tests.support.servers.hub.repos import File, weights

LOG = logging.getLogger("aitorrentd.test")
CONTENT = weights(3_000_000)
FILE = Described("c" * 40, File(CONTENT).sha256, len(CONTENT))
PLACE = Place("org/model", "main", "model.safetensors")


class Hub:
    """The Hub, as a download asks it."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)
        self.starts: list[int] = []

    @asynccontextmanager
    async def opened(self, start: int) -> AsyncIterator[Any]:
        self.starts.append(start)
        content = self.contents.pop(0) if len(self.contents) > 1 else self.contents[0]
        if not content:
            raise Unavailable("down")

        class Answer:
            async def parts(self) -> AsyncIterator[bytes]:
                for at in range(start, len(content), 200_000):
                    await asyncio.sleep(0)
                    yield content[at : at + 200_000]

        yield FileBody(206 if start else 200, start, len(content), Answer())  # type: ignore[arg-type]


class Swarm:
    """A swarm that sends `content`, all or its beginning, then does `then`."""

    def __init__(self, content: bytes, then: Callable[[], Any] | None = None) -> None:
        self.content = content
        self.then = then
        self.released = 0

    async def find(self, sha256: str) -> list[str]:
        return ["a torrent"]

    async def fetch(self, file: Any, *, ranges: Any = None) -> Any:
        return self

    def local(self, sha256: str) -> Path | None:
        return None

    async def offer(self, path: Path, **facts: Any) -> str:
        return ""

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for at in range(start, min(stop, len(self.content)), 100_000):
            yield self.content[at : min(at + 100_000, stop)]
        if self.then is not None:
            await self.then()

    def progress(self) -> FetchProgress:
        return FetchProgress(0, 0, 0, 0, 0, 0)

    async def wait(self) -> Path:
        await asyncio.Event().wait()
        raise AssertionError

    def release(self) -> None:
        self.released += 1


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with aiosqlite.connect(tmp_path / "db") as db:
        await db.executescript(MIGRATIONS[1] + MIGRATION)
        tasks = Tasks(LOG)
        yield Store(tmp_path / "files", db, tasks, LOG, most=10**9)
        await tasks.close()


def made(store: Store, swarm: Swarm | None) -> Sources:
    return Sources(
        store,
        lambda: swarm,  # type: ignore[arg-type, return-value]
        lambda: [swarm] if swarm else [],  # type: ignore[list-item]
        LOG,
        swarm_min=1,
        seed=False,
        origin="http://hub",
        first_s=0.2,
    )


async def read(found: Sources, hub: Hub, start: int = 0, stop: int = len(CONTENT)) -> bytes:
    parts = found.read(FILE, PLACE, hub.opened, start, stop)
    return b"".join([part async for part in parts])


async def hang() -> None:
    await asyncio.Event().wait()


async def test_a_swarm_is_enough(store: Store) -> None:
    swarm, hub = Swarm(CONTENT), Hub(b"")
    assert await read(made(store, swarm), hub) == CONTENT
    assert (hub.starts, swarm.released) == ([], 1)


async def fails() -> None:
    raise Unavailable("the swarm is gone")


@pytest.mark.parametrize("then", [hang, fails, None], ids=["hangs", "fails", "ends"])
@pytest.mark.parametrize("sent", [0, 1_234_567])
async def test_the_hub_takes_over_from_a_swarm(
    store: Store, monkeypatch: pytest.MonkeyPatch, then: Any, sent: int
) -> None:
    monkeypatch.setattr(sources, "NEXT_S", 0.2)
    swarm, hub = Swarm(CONTENT[:sent], then), Hub(CONTENT)
    async with asyncio.timeout(5):
        assert await read(made(store, swarm), hub) == CONTENT
    assert swarm.released == 1


async def test_a_swarm_with_another_file_is_noticed_before_the_last_bytes(store: Store) -> None:
    lying, hub = Swarm(weights(len(CONTENT))), Hub(CONTENT)
    got = 0
    with pytest.raises(Aborted):
        async for part in made(store, lying).read(FILE, PLACE, hub.opened, 0, len(CONTENT)):
            got += len(part)
    assert got < len(CONTENT)
    assert store.may_be_wrong(FILE.digest)  # who continues gets everything anew


async def test_a_beginning_from_a_lying_swarm_does_not_pass_with_an_end_from_the_hub(
    store: Store,
) -> None:
    lying, hub = Swarm(weights(1_000_000), fails), Hub(CONTENT)
    with pytest.raises(Aborted):
        await read(made(store, lying), hub)


async def test_the_hub_with_another_file_is_asked_again(store: Store) -> None:
    hub = Hub(weights(len(CONTENT)), CONTENT)
    found = made(store, None)
    with pytest.raises(Aborted):
        await read(found, hub)
    assert store.may_be_wrong(FILE.digest)
    assert await read(found, hub) == CONTENT
    assert hub.starts == [0, 0]


async def test_a_hub_that_always_sends_another_file_is_an_error(store: Store) -> None:
    hub = Hub(weights(len(CONTENT)))
    found = made(store, None)
    with pytest.raises(Aborted):
        await read(found, hub)
    await wait_for(lambda: len(hub.starts) == 3)
    assert await store.held(FILE) is None


async def test_a_hub_that_sends_too_much_or_too_little_is_not_believed(store: Store) -> None:
    for wrong in (CONTENT + b"x", CONTENT[:-1]):
        hub = Hub(wrong, CONTENT)
        assert await read(made(store, None), hub) == CONTENT
        await store.trim()
        store.path_of(FILE.digest).unlink()


async def test_a_part_that_was_changed_on_disk_is_not_trusted(store: Store) -> None:
    path = store.path_of(FILE.digest)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * 1_000_000)
    hub = Hub(CONTENT)
    download = store.get(FILE, hub.opened)
    assert (await download.finished()).read_bytes() == CONTENT
    assert hub.starts == [1_000_000, 0]


async def test_a_file_that_was_deleted_is_fetched_again(store: Store) -> None:
    hub, found = Hub(CONTENT), made(store, None)
    assert await read(found, hub) == CONTENT
    await wait_for(lambda: not store._running)
    path = await store.held(FILE)
    assert path is not None
    path.unlink()
    assert await read(found, hub) == CONTENT


async def test_small_files_are_verified_by_their_git_blob_id(store: Store) -> None:
    small = b"print('hello')\n"
    file = Described("c" * 40, File(small).git_sha1, None)
    hub = Hub(b"print('other')\n", small)
    download = store.get(file, hub.opened)
    assert (await download.finished()).read_bytes() == small
    assert download.wrong == 1


async def test_a_hub_that_is_gone_is_an_error_before_the_first_byte(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aitorrent_hub.files.download._ATTEMPTS", 1)
    with pytest.raises((Unavailable, NotFound), match="down"):
        await read(made(store, None), Hub(b""))


def test_the_digest_is_that_of_the_content() -> None:
    assert hashlib.sha256(CONTENT).hexdigest() == FILE.digest
