"""Links between holders are tested before an answer needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.protocol.messages import PROTOCOL
from aitorrent_shards.routing.failed_links import FIRST_S
from aitorrent_shards.routing.probing import FRESH_S, UNKNOWN_S
from aitorrent_shards.serving.reaching import AT_ONCE, BURST
from aitorrentd.api import (
    GenerateRequest,
    PendingModel,
    SamplingParams,
    StageLost,
    Stream,
    Unavailable,
    encode_frame,
    peer_id,
    read_frame,
    short,
)
from tests.support.shards.shards_fakes import FakeNode, toy_answer, toy_network, until

pytestmark = pytest.mark.jump_clock


def request() -> GenerateRequest:
    params = SamplingParams(max_tokens=8, temperature=0)
    return GenerateRequest(model="toy", prompt="hello", params=params)


def expected(node: FakeNode) -> list[int]:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return toy_answer(tokenizer.encode("hello"), 8)


def pending(node: FakeNode) -> PendingModel | None:
    return next(iter(node.shards.backend.pending()), None)


async def probed(node: FakeNode, probes: int) -> None:
    """Wait until `node` made this many tests."""
    node.shards.prober.wake()
    await until(lambda: node.shards.prober.probes >= probes, 2 * FRESH_S)
    await asyncio.sleep(1)


async def test_model_is_not_offered_while_its_holders_cannot_reach_each_other(
    tmp_path: Path,
) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, first, last = nodes
        here.net.cut(first.id, last.id)
        here.shards.prober.wake()
        await until(lambda: pending(here) is not None, 10)
        found = pending(here)
        assert found is not None
        assert found.state == "incomplete"
        said = rf"{short(first.id)} (layers 0-3) cannot reach {short(last.id)} (layers 3-6)"
        assert said in found.detail
        with pytest.raises(Unavailable, match="cannot reach"):
            await here.shards.backend.models()
        assert first.workers[0].steps == last.workers[0].steps == 0  # no answer was tried
        here.net.heal()
        await until(lambda: pending(here) is None, 2 * FIRST_S)
        assert await here.tokens(request()) == expected(here)


async def test_next_plan_is_tested_and_no_answer_pays_for_the_bad_link(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", "3-6", "3-6") as nodes:
        here, first, *thirds = nodes
        for node in thirds[:2]:
            here.net.cut(first.id, node.id)
        here.shards.prober.wake()
        await until(lambda: here.shards.prober.probes >= 3, 20)
        await asyncio.sleep(10)
        assert [m.name for m in await here.shards.backend.models()] == ["toy"]
        before = len(here.shards.links)
        assert before <= 2
        assert await here.tokens(request()) == expected(here)
        assert len(here.shards.links) == before
        assert not [e for e in here.events if isinstance(e, StageLost)]


async def test_link_that_works_is_tested_seldom(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-2", "2-4", "4-6") as nodes:
        here = nodes[0]
        await probed(here, 2)
        for _ in range(5):
            here.shards.prober.wake()
            await asyncio.sleep(FRESH_S / 12)
        assert here.shards.prober.probes == 2
        await until(lambda: here.shards.prober.probes == 4, FRESH_S)
        assert len(here.shards.links) == 0


async def test_link_that_fails_once_counts_as_good(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, first, last = nodes
        here.net.cut(first.id, last.id)
        here.shards.prober.wake()
        await until(lambda: here.shards.prober.probes == 1)
        here.net.heal()
        await until(lambda: here.shards.prober.probes == 2)
        await asyncio.sleep(1)
        assert len(here.shards.links) == 0
        assert pending(here) is None


async def test_test_that_could_not_be_made_says_nothing_about_the_link(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, first, _ = nodes
        here.net.cut(here.id, first.id)
        await probed(here, 1)
        assert len(here.shards.links) == 0
        here.net.heal()
        await until(lambda: here.shards.prober.probes == 2, 2 * UNKNOWN_S)


async def test_link_that_an_answer_found_bad_is_tested_again_soon(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, first, last = nodes
        await probed(here, 1)
        here.net.cut(first.id, last.id)
        with pytest.raises(Unavailable, match="cannot reach"):
            await here.tokens(request())
        here.net.heal()
        assert pending(here) is not None
        await until(lambda: pending(here) is None, 3 * FIRST_S)


async def test_links_to_this_node_and_between_stages_of_one_node_need_no_test(
    tmp_path: Path,
) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        for node in nodes:
            node.shards.prober.wake()
        await asyncio.sleep(120)
        assert [n.shards.prober.probes for n in nodes] == [0, 0]


async def ask(node: FakeNode, target: FakeNode, header: Mapping[str, Any]) -> dict[str, Any]:
    stream: Stream = await node.transport.open_stream(target.id, PROTOCOL)
    await stream.write(encode_frame(dict(header)))
    return (await read_frame(stream, max_bytes=4096)).header


async def test_stage_tests_links_for_peers_within_limits(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "all", "none") as nodes:
        asker, stage, other = nodes
        reach = {"op": "reach", "id": 7, "addresses": []}
        assert await ask(asker, stage, {"op": "hello", "id": 7}) == {"id": 7}
        assert await ask(asker, stage, reach | {"peer": other.id}) == {"id": 7}
        assert await ask(asker, stage, reach | {"peer": stage.id}) == {"id": 7}
        nobody = peer_id(bytes(32))
        answer = await ask(asker, stage, reach | {"peer": nobody})
        assert answer["error"]["code"] == "unavailable"
        answers = [await ask(asker, stage, reach | {"peer": other.id}) for _ in range(BURST)]
        assert answers[-1]["error"]["code"] == "busy"
        assert await ask(other, stage, reach | {"peer": asker.id}) == {"id": 7}


async def test_stage_tests_few_links_at_once(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "all", "none") as nodes:
        asker, stage, other = nodes
        other.transport.awake.clear()  # it hangs
        header = {"op": "reach", "id": 7, "addresses": [], "peer": other.id}
        asked = [ask(asker, stage, header) for _ in range(AT_ONCE + 2)]
        answers = await asyncio.gather(*asked)
        codes = sorted(a["error"]["code"] for a in answers)
        assert codes == ["busy"] * 2 + ["timeout"] * AT_ONCE
        other.transport.awake.set()
        await asyncio.sleep(60)
        assert await ask(asker, stage, header) == {"id": 7}
