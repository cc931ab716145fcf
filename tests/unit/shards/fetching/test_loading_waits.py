"""Who has a model loaded waits while its files are still fetched or read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.methods_models import Moved, MoveParams
from aitorrent_shards.models.folder import hash_model
from aitorrent_shards.serving import local_model
from aitorrentd.api import NotFound, Unavailable
from aitorrentd.api.tasks import beside
from tests.support.shards.adding import Call, Site, add, method, rows, running, site_in
from tests.support.shards.shards_fakes import FakeNode, until, write_toy_model


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path) as site:
        yield site


async def load(node: FakeNode, call: Call | None = None, **params: Any) -> Moved:
    """Load the model `toy`."""
    asked = MoveParams.model_validate({"name": "toy"} | params)
    moved: Moved = await method(node.shards, "shards.load_model")(call or Call(), asked)
    return moved


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are read once this is set."""
    may_read = threading.Event()

    def held(*arguments: Any) -> Any:
        assert may_read.wait(60)
        return hash_model(*arguments)

    monkeypatch.setattr(local_model, "hash_model", held)
    return may_read


async def test_files_that_are_read_are_waited_for(site: Site, reading: threading.Event) -> None:
    folder = write_toy_model(site.folder / "m")
    async with running(node := site.node(1, models=[{"name": "toy", "path": str(folder)}])):
        assert (await load(node, wait=False)).state == "reading"
        call = Call()
        async with beside(load(node, call), "test-load") as loading:
            await until(lambda: call.told)
            assert call.told[0][0] == "reading"
            assert not loading.done()
            reading.set()
            assert (await loading).state == "ready"


async def test_what_cannot_be_used_is_an_error(site: Site, reading: threading.Event) -> None:
    """Found out while the caller waits, and before."""
    entry = {"name": "toy", "path": str(write_toy_model(site.folder / "m")), "layers": "2-9"}
    async with running(node := site.node(1, models=[entry])):
        async with beside(load(node), "test-load") as loading:
            await asyncio.sleep(0)
            reading.set()
            with pytest.raises(Unavailable, match="model toy cannot be used: .* has 6 layers"):
                await loading
        with pytest.raises(Unavailable, match="has 6 layers"):
            await load(node)


@pytest.mark.slow
async def test_fetch_that_gets_nowhere_is_told_after_some_attempts(site: Site) -> None:
    site.origin.problem = Unavailable("the Hub cannot be reached")
    async with running(node := site.node(1)):
        await add(node, wait=False)
        with pytest.raises(Unavailable) as caught:
            await load(node)
        assert caught.value.message == (
            "model toy cannot be fetched now: the Hub cannot be reached. The node goes on trying;"
            ' "aitorrentctl model list" shows how far it is'
        )
        site.origin.problem = None
        await until(node.ready, 60)
        assert (await load(node)).state == "ready"


async def test_model_that_is_removed_meanwhile_ends_the_wait(site: Site) -> None:
    site.origin.problem = Unavailable("down")
    async with running(node := site.node(1)):
        await add(node, wait=False)
        async with beside(load(node), "test-load") as loading:
            await until(lambda: rows(node)[0].problem)
            await node.shards.list.remove("toy")
            with pytest.raises(NotFound, match="model toy was removed"):
                await loading
