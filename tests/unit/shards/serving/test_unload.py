"""Layers that leave memory and return: nothing that runs is cut, nothing that comes is lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from aitorrent_shards.protocol.spans import PREFIX
from aitorrent_shards.serving.holder import Holder
from aitorrentd.api import Conflict, GenerateRequest, InvalidParams, SamplingParams, Unavailable
from aitorrentd.api.models.keeping import KeepsModels
from tests.support.shards.shards_fakes import FakeNode, ToyWorker, toy_answer, toy_network, until

pytestmark = pytest.mark.jump_clock

NEW = 8
REQUEST = GenerateRequest(
    model="toy", prompt="hello", params=SamplingParams(max_tokens=NEW, temperature=0)
)


def expected(node: FakeNode) -> list[int]:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return toy_answer(tokenizer.encode("hello"), NEW)


def holder_of(node: FakeNode) -> Holder:
    holder = node.shards.models["toy"].holder
    assert holder is not None
    return holder


def holders(node: FakeNode) -> set[str]:
    return {record.peer for record in node.directory.known(PREFIX)}


async def test_unloaded_model_is_known_and_returns_with_the_next_answer(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        mine, other = nodes
        assert isinstance(mine.shards.backend, KeepsModels)
        await mine.shards.backend.unload("toy")
        assert mine.workers[0].closed.done()
        assert (mine.shards.models["toy"].state, holder_of(mine).pid) == ("unloaded", None)
        assert holders(other) == {other.id}
        (view,) = await mine.shards.backend.models()
        assert view.is_resting
        assert [part.peer for part in view.layers] == [other.id]
        assert not mine.shards.backend.pending()
        with pytest.raises(Unavailable, match="no reachable node holds layers 0-3"):
            await other.shards.backend.models()
        await mine.shards.backend.unload("toy")  # once more is no error

        notices = [
            chunk.notice async for chunk in mine.shards.backend.generate(REQUEST) if chunk.notice
        ]
        assert notices[0] == "model toy is loading"
        assert len(mine.workers) == 2
        (view,) = await mine.shards.backend.models()
        assert not view.is_resting
        assert holders(other) == {mine.id, other.id}
        for node in nodes:
            assert await node.tokens(REQUEST) == expected(node)


async def test_running_answers_end_before_layers_leave(tmp_path: Path) -> None:
    """One of this node, and one of a peer that uses this node's layers."""
    async with toy_network(tmp_path, "0-3", "3-6") as (mine, other):
        for asking in (mine, other):
            ids: list[int] = []
            async with aclosing(asking.shards.backend.generate(REQUEST)) as chunks:
                ids += (await anext(chunks)).token_ids
                unloading = asyncio.create_task(mine.shards.backend.unload("toy"))
                await until(lambda: mine.shards.models["toy"].state == "unloading")
                assert holders(other) == {other.id}
                with pytest.raises(Unavailable, match="layers 0-3"):
                    await other.shards.backend.models()
                async for chunk in chunks:
                    ids += chunk.token_ids
                    assert not mine.workers[-1].closed.done()
            assert ids == expected(asking)
            await unloading
            assert mine.workers[-1].closed.done()
            await mine.shards.backend.load("toy")
            assert (mine.shards.models["toy"].state, holders(other)) == (
                "ready",
                {mine.id, other.id},
            )


async def test_peers_answer_goes_on_elsewhere_after_its_last_use_here(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", "3-6") as nodes:
        asking = nodes[0]
        assert await asking.tokens(REQUEST) == expected(asking)
        for leaving in nodes[2:]:
            await leaving.shards.backend.unload("toy")
            assert await asking.tokens(REQUEST) == expected(asking)
            await leaving.shards.backend.load("toy")


async def test_session_of_a_stranger_to_leaving_layers_is_refused(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-6", "none", "none") as (mine, first, second):
        async with aclosing(first.shards.backend.generate(REQUEST)) as chunks:
            await anext(chunks)
            holder_of(mine).rest.leave()  # before the news has reached anybody
            with pytest.raises(Unavailable, match="about to leave memory"):
                await second.tokens(REQUEST)
            async for _ in chunks:
                pass
        await until(lambda: mine.shards.models["toy"].state == "unloaded")


async def test_load_calls_an_unload_off_that_waits(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as (mine,):
        async with aclosing(mine.shards.backend.generate(REQUEST)) as chunks:
            await anext(chunks)
            unloading = asyncio.create_task(mine.shards.backend.unload("toy"))
            await until(lambda: mine.shards.models["toy"].state == "unloading")
            await mine.shards.backend.load("toy")
            with pytest.raises(Conflict, match="loaded again meanwhile"):
                await unloading
        assert mine.shards.models["toy"].state == "ready"
        assert holders(mine) == {mine.id}
        assert await mine.tokens(REQUEST) == expected(mine)


async def test_idle_layers_leave_when_their_time_is_over(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as (mine,):
        backend = mine.shards.backend
        await backend.keep("toy", 30.0)
        (view,) = await backend.models()
        assert view.leaves_s is not None and 29 < view.leaves_s <= 30
        async with aclosing(backend.generate(REQUEST)) as chunks:
            await anext(chunks)
            await asyncio.sleep(60)
            assert mine.shards.models["toy"].state == "ready"  # it is in use
            async for _ in chunks:
                pass
        ended_s = mine.clock.monotonic()
        await until(lambda: mine.shards.models["toy"].state == "unloaded", 60)
        assert 30 <= mine.clock.monotonic() - ended_s < 31
        # The next stay has no end, as the first one had none.
        await backend.load("toy")
        (view,) = await backend.models()
        assert view.leaves_s is None
        await backend.keep("toy", 30.0)
        await backend.keep("toy", None)
        await asyncio.sleep(60)
        assert mine.shards.models["toy"].state == "ready"
        await backend.keep("toy", 0)
        await until(lambda: mine.shards.models["toy"].state == "unloaded")
        await backend.keep("toy", 30.0)  # of no effect: it must not load the model
        await asyncio.sleep(60)
        assert mine.shards.models["toy"].state == "unloaded"


async def test_many_requests_share_one_return(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as (mine,):
        await mine.shards.backend.unload("toy")
        answers = await asyncio.gather(*(mine.tokens(REQUEST) for _ in range(4)))
        assert answers == [expected(mine)] * 4
        assert len(mine.workers) == 2


async def test_unloads_and_answers_in_any_order_lose_nothing(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as (mine, other):

        async def unload() -> None:
            for _ in range(6):
                try:
                    await mine.shards.backend.unload("toy")
                except Conflict:
                    continue

        async def ask() -> None:
            for _ in range(6):
                assert await mine.tokens(REQUEST) == expected(mine)

        await asyncio.gather(unload(), ask(), unload(), ask())
        assert await mine.tokens(REQUEST) == expected(mine)
        await until(lambda: holder_of(mine).rest.users == 0)
        assert await other.tokens(REQUEST) == expected(other)


async def test_worker_that_cannot_return_says_why(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as (mine,):
        await mine.shards.backend.unload("toy")

        def refuse(worker: ToyWorker) -> None:
            worker.refuses["load"] = InvalidParams("the weights are gone")

        mine.on_worker = refuse
        with pytest.raises(Unavailable, match="cannot be loaded: the weights are gone"):
            await mine.tokens(REQUEST)
        with pytest.raises(Unavailable, match="the weights are gone"):
            await mine.shards.backend.models()
        await mine.shards.backend.unload("toy")  # nothing is in memory
        with pytest.raises(Unavailable, match="the weights are gone"):
            await mine.shards.backend.load("toy")


async def test_node_without_layers_cannot_unload(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all", "none") as (_, asking):
        await asking.shards.backend.load("toy")
        await asking.shards.backend.keep("toy", 1.0)
        with pytest.raises(InvalidParams, match="no layers of toy: other nodes hold them"):
            await asking.shards.backend.unload("toy")
