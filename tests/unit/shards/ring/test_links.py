"""Holders that cannot reach each other: another plan, or an error that names the two."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from aitorrent_shards.routing.failed_links import FIRST_S, MOST_S, FailedLinks
from aitorrentd.api import GenerateRequest, PeerId, SamplingParams, Unavailable, short
from tests.support.shards.shards_fakes import FakeNode, toy_answer, toy_network

pytestmark = pytest.mark.jump_clock

A, B = PeerId("a"), PeerId("b")


def request() -> GenerateRequest:
    params = SamplingParams(max_tokens=8, temperature=0)
    return GenerateRequest(model="toy", prompt="hello", params=params)


def expected(node: FakeNode) -> list[int]:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return toy_answer(tokenizer.encode("hello"), 8)


async def test_answer_says_at_once_which_two_nodes_cannot_reach_each_other(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=60) as nodes:
        here, first, last = nodes
        here.net.cut(first.id, last.id)
        said = (
            rf"{short(first.id)} \(layers 0-3\) cannot reach {short(last.id)} \(layers 3-6\):"
            r" .* cannot be reached \(tried 0 s ago\)"
        )
        for _ in range(2):  # the second one without another try
            began = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match=said) as failed:
                await here.tokens(request())
            assert asyncio.get_running_loop().time() - began < 3
            assert "waited" not in failed.value.message
        (pending,) = here.shards.backend.pending()
        assert pending.state == "incomplete"
        assert "cannot reach" in pending.detail
        with pytest.raises(Unavailable, match="cannot reach"):
            await here.shards.backend.models()


@pytest.mark.parametrize("spare", ["0-3", "3-6", "all", "0-4"])
async def test_plan_goes_around_a_link_that_failed(tmp_path: Path, spare: str) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", spare) as nodes:
        here, first, last, _ = nodes
        here.net.cut(first.id, last.id)
        if spare == "0-4":
            here.net.cut(first.id, nodes[3].id)
        assert await here.tokens(request()) == expected(here)
        assert [m.name for m in await here.shards.backend.models()] == ["toy"]


async def test_every_pair_that_can_work_is_found(tmp_path: Path) -> None:
    """Two holders of each third, of whose links only one way through is left."""
    layers = ["none", "0-2", "0-2", "2-4", "2-4", "4-6", "4-6"]
    for way in itertools.product((1, 2), (3, 4), (5, 6)):
        async with toy_network(tmp_path, *layers) as nodes:
            for a, b in itertools.chain(
                itertools.product((1, 2), (3, 4)), itertools.product((3, 4), (5, 6))
            ):
                if a not in way or b not in way:
                    nodes[0].net.cut(nodes[a].id, nodes[b].id)
            assert await nodes[0].tokens(request()) == expected(nodes[0]), way


async def test_link_that_works_again_is_used_again(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, first, last = nodes
        here.net.cut(first.id, last.id)
        with pytest.raises(Unavailable, match="cannot reach"):
            await here.tokens(request())
        here.net.heal()
        links = here.shards.links
        links.worked(first.id, last.id)
        assert await here.tokens(request()) == expected(here)
        assert len(links) == 0


async def test_replacement_that_a_neighbour_cannot_reach_is_not_the_end(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", "3-6", "all") as nodes:
        here, first, *thirds, _ = nodes
        chunks = here.shards.backend.generate(request())
        ids = list((await anext(chunks)).token_ids)
        for node in thirds:
            here.net.cut(first.id, node.id)
        for node in thirds:
            for worker in node.workers:
                worker.kill()
        async for chunk in chunks:
            ids += chunk.token_ids
        assert ids == expected(here)


async def test_time_that_was_waited_is_told_as_it_was(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=0.5) as nodes:
        chunks = nodes[0].shards.backend.generate(request())
        await anext(chunks)
        nodes[2].kill()
        began = asyncio.get_running_loop().time()
        said = r"no other node offered them within (.*) s$"
        with pytest.raises(Unavailable, match=said) as e:
            async for _ in chunks:
                pass
        told_s = float(e.value.message.rsplit(" within ", 1)[1].split()[0])
        assert 0.4 <= told_s <= asyncio.get_running_loop().time() - began + 0.1


async def test_link_that_failed_long_ago_is_not_tried_while_there_is_another_way(
    tmp_path: Path,
) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", "3-6") as nodes:
        here, first, *thirds = nodes

        async def last_stage() -> PeerId:
            chunks = [chunk async for chunk in here.shards.backend.generate(request())]
            return PeerId(chunks[-1].stages[-1].peer)

        usual = await last_stage()
        long_ago = here.clock.monotonic() - 2 * MOST_S
        here.shards.links.failed(first.id, usual, "no route", long_ago)
        assert await last_stage() == next(n.id for n in thirds if n.id != usual)
        for node in thirds:
            here.shards.links.failed(first.id, node.id, "no route", long_ago)
        assert await last_stage() == usual  # worth a try again
        assert here.shards.links.last(first.id, usual) is None


def test_failed_link_is_left_out_longer_each_time_and_then_tried_again() -> None:
    links, now = FailedLinks(), 100.0
    pauses = []
    for _ in range(8):
        links.failed(A, B, "no route", now)
        assert links.find(B, A, now) is None
        found = links.find(A, B, now)
        assert found is not None
        assert found.cause == "no route"
        pauses.append(found.until - now)
        now = found.until
        assert links.find(A, B, now) is None
    assert pauses == [30, 60, 120, 240, 300, 300, 300, 300]
    assert (pauses[0], pauses[-1]) == (FIRST_S, MOST_S)
    links.worked(A, B)
    links.failed(A, B, "no route", now)
    assert links.find(A, B, now + FIRST_S) is None
