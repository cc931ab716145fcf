"""Nodes of the shards plugin that drain: peers go elsewhere, what runs goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from aitorrent_shards.protocol.spans import PREFIX
from aitorrentd.api import GenerateRequest, SamplingParams, ShuttingDown
from aitorrentd.kernel.context.drain import Drain
from tests.support.shards.shards_fakes import FakeNode, toy_answer, toy_network

pytestmark = pytest.mark.jump_clock

NEW = 8
REQUEST = GenerateRequest(
    model="toy", prompt="hello", params=SamplingParams(max_tokens=NEW, temperature=0)
)


def expected(node: FakeNode) -> list[int]:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return toy_answer(tokenizer.encode("hello"), NEW)


def drain(node: FakeNode, *, tell: bool = True) -> None:
    """Make a fake node refuse work; `tell` lets its records follow, as the event would."""

    @contextmanager
    def refuse() -> Iterator[None]:
        raise ShuttingDown("this node is draining and takes no new work")
        yield

    def work(what: str) -> AbstractContextManager[None]:
        return refuse()

    node.draining = True
    node.work = work  # type: ignore[method-assign]
    if tell:
        node.shards._advertise()


def holders(node: FakeNode) -> set[str]:
    return {record.peer for record in node.directory.known(PREFIX)}


async def test_records_are_withdrawn_and_come_back(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        first, second = nodes
        assert holders(first) == {first.id, second.id}
        drain(second)
        assert holders(first) == {first.id}
        second.draining = False
        second.shards._advertise()
        assert holders(first) == {first.id, second.id}


async def test_answers_of_others_go_around_a_draining_node(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", "3-6") as nodes:
        for leaving in nodes[2:]:
            other = nodes[2] if leaving is nodes[3] else nodes[3]
            drain(leaving)
            assert await nodes[0].tokens(REQUEST) == expected(nodes[0])
            assert not leaving.shards.stage_server.sessions()
            leaving.draining = False
            del leaving.work
            leaving.shards._advertise()
            assert holders(other) >= {other.id, leaving.id}


async def test_session_is_refused_where_the_news_has_not_arrived(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=0.2) as nodes:
        drain(nodes[2], tell=False)
        with pytest.raises(ShuttingDown, match="draining"):
            await nodes[0].tokens(REQUEST)


async def test_an_answer_that_was_let_in_still_finds_this_nodes_layers(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        drain(nodes[0])
        assert holders(nodes[0]) == set()
        assert await nodes[0].tokens(REQUEST) == expected(nodes[0])


async def test_sessions_of_peers_are_counted_and_own_ones_are_not(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        drains = {node.id: Drain() for node in nodes}
        for node in nodes:
            node.work = lambda what, d=drains[node.id]: d.work("shards", what)  # type: ignore
        async for _ in nodes[0].shards.backend.generate(REQUEST):
            assert [w.count for w in drains[nodes[1].id].under_way()] == [1]
            assert not drains[nodes[0].id].under_way()
