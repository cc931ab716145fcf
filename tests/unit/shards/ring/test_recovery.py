"""Losing stages in the middle of answers: the tokens never change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from aitorrent_shards.metrics import REPLAYS
from aitorrent_shards.ring.repair import Repair, Waiting
from aitorrentd.api import (
    GenerateRequest,
    SamplingParams,
    StageLost,
    Unavailable,
    decode_frame,
)
from tests.support.shards.shards_fakes import FakeNode, toy_answer, toy_network, until
from tests.support.transport.streams import MemoryStream

pytestmark = pytest.mark.jump_clock

NEW = 12
PROMPT = "hello"


def request(prompt: str = PROMPT, new: int = NEW, **params: Any) -> GenerateRequest:
    return GenerateRequest(
        model="toy",
        prompt=prompt,
        params=SamplingParams.model_validate({"max_tokens": new, "temperature": 0} | params),
    )


def prompt_ids(node: FakeNode, prompt: str = PROMPT) -> tuple[int, ...]:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return tokenizer.encode(prompt)


def replays(node: FakeNode) -> dict[tuple[str, ...], float]:
    """Stages that the node replaced, by reason."""
    (found,) = [m for m in node.shards.stage_server.measured() if m.family is REPLAYS]
    return {labels: series.value for labels, series in found.by_labels().items()}


@pytest.mark.parametrize(
    "layers", [["all"], ["0-3", "3-6"], ["0-2", "2-4", "4-6"], ["none", "all"]]
)
async def test_answer_is_the_same_over_any_number_of_stages(
    tmp_path: Path, layers: list[str]
) -> None:
    async with toy_network(tmp_path, *layers) as nodes:
        ids = await nodes[0].tokens(request())
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)
        await until(lambda: not any(n.shards.stage_server.sessions() for n in nodes))


async def test_long_prompt_goes_through_in_pieces(tmp_path: Path) -> None:
    prompt = "abcdefgh" * 40
    async with toy_network(tmp_path, "0-2", "2-4", "4-6", prefill_chunk=16) as nodes:
        ids = await nodes[0].tokens(request(prompt))
        assert ids == toy_answer(prompt_ids(nodes[0], prompt), NEW, chunk=16)


PAIRS = ["none", "0-2", "2-4", "4-6", "0-2", "2-4", "4-6"]
"Node 0 asks; nodes 1 to 3 hold a third each, and so do 4 to 6."


def chosen(nodes: list[FakeNode], third: int) -> FakeNode:
    """The holder of a third that a fresh ring takes: equal costs go by id."""
    return min(nodes[third], nodes[third + 3], key=lambda n: n.id)


@pytest.mark.parametrize("third", [1, 2, 3])
async def test_worker_killed_at_every_step_changes_nothing(tmp_path: Path, third: int) -> None:
    for step in range(1, NEW + 3):
        async with toy_network(tmp_path, *PAIRS, prefill_chunk=2) as nodes:
            victim = chosen(nodes, third)
            victim.workers[-1].kill_at_step = step
            expected = toy_answer(prompt_ids(nodes[0]), NEW, chunk=2)
            assert await nodes[0].tokens(request()) == expected, f"step {step}"
            (lost,) = [e for e in nodes[0].events if isinstance(e, StageLost)]
            assert (lost.peer, lost.layers) == (victim.id, (2 * third - 2, 2 * third))
            assert lost.replacement in {nodes[third].id, nodes[third + 3].id} - {victim.id}
            assert replays(nodes[0]) == {("gone",): 1, ("fault",): 0, ("link",): 0}


@pytest.mark.parametrize("third", [1, 2, 3])
async def test_daemon_killed_after_every_token_changes_nothing(tmp_path: Path, third: int) -> None:
    for at in range(NEW - 1):
        async with toy_network(tmp_path, *PAIRS) as nodes:
            victim = chosen(nodes, third)
            ids: list[int] = []
            async for chunk in nodes[0].shards.backend.generate(request()):
                ids += chunk.token_ids
                if len(ids) > at and not victim.is_dead:
                    victim.kill()
            assert ids == toy_answer(prompt_ids(nodes[0]), NEW), f"token {at}"


async def test_all_stages_killed_one_after_the_other(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        ids: list[int] = []
        victims = [chosen(nodes, third) for third in (3, 1, 2)]
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if victims:
                victims.pop(0).kill()
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)


async def test_all_stages_killed_at_once(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            for third in (1, 2, 3):
                chosen(nodes, third).kill()
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)


async def test_replacement_killed_while_it_is_filled(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS, "2-4", prefill_chunk=2) as nodes:
        middle = sorted((nodes[2], nodes[5], nodes[7]), key=lambda n: n.id)
        middle[1].workers[-1].kill_at_step = 2
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if len(ids) >= 4:
                middle[0].kill()
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW, chunk=2)
        assert middle[1].workers[0].closed.done()


async def test_lost_layers_are_taken_over_by_several_nodes(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-6", "0-1", "1-5", "3-6") as nodes:
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            nodes[1].kill()
            stages = chunk.stages
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)
        assert (stages[0].start, stages[0].end) == (0, 1)
        assert [s.peer for s in stages] == [n.id for n in nodes[2:]]


async def test_hung_stage_is_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        victim = chosen(nodes, 2)
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if len(ids) == 3:
                victim.transport.awake.clear()
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)
        assert replays(nodes[0])["fault",] == 1
        victim.transport.awake.set()


async def test_hung_worker_behind_a_live_daemon_is_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        victim = chosen(nodes, 2)
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if len(ids) == 3:
                victim.workers[-1].hangs = True
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)


def is_of_a_hop(data: bytes) -> bool:
    """Whether a whole frame, as it is written, is one of activations or candidates."""
    return "p" in decode_frame(data[4:]).header


async def test_stage_that_answers_pings_but_computes_nothing_is_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS, prefill_chunk=2) as nodes:
        victim = chosen(nodes, 2)
        idle = False
        nodes[0].net.is_swallowed = lambda stream, data: (
            idle and stream.peer == victim.id and is_of_a_hop(data)
        )
        ids: list[int] = []
        async with asyncio.timeout(30):
            async for chunk in nodes[0].shards.backend.generate(request()):
                ids += chunk.token_ids
                idle = len(ids) >= 3
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW, chunk=2)
        assert [e.peer for e in nodes[0].events if isinstance(e, StageLost)] == [victim.id]


async def test_stage_whose_own_code_fails_says_so_and_is_replaced(tmp_path: Path) -> None:
    # A step may take long, so nothing but the stage's own word can help in time.
    async with toy_network(tmp_path, *PAIRS, step_timeout_s=60) as nodes:
        victim = chosen(nodes, 2)
        ids: list[int] = []
        async with asyncio.timeout(10):
            async for chunk in nodes[0].shards.backend.generate(request()):
                ids += chunk.token_ids
                victim.workers[-1].garbles = len(ids) >= 3
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)
        assert [e.peer for e in nodes[0].events if isinstance(e, StageLost)] == [victim.id]


async def test_broken_links_between_living_stages_are_healed_at_once(tmp_path: Path) -> None:
    # Each layer has one holder and a step may take long, so nothing but a new link can help.
    layers = ["none", "0-2", "2-4", "4-6"]
    async with toy_network(tmp_path, *layers, step_timeout_s=60) as nodes, asyncio.timeout(10):
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            for one, other in ((1, 2), (2, 3)):
                nodes[0].net.lose_streams(nodes[one].id, nodes[other].id)
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)
        assert not [e for e in nodes[0].events if isinstance(e, StageLost)]


async def test_frames_that_a_breaking_link_swallows_are_sent_again_at_once(
    tmp_path: Path,
) -> None:
    written = 0

    def lose_some(stream: MemoryStream, data: bytes) -> None:
        nonlocal written
        if is_of_a_hop(data):
            written += 1
            if written % 5 == 0:
                stream.reset("the connection broke with bytes under way")

    layers = ["none", "0-2", "2-4", "4-6"]
    async with toy_network(tmp_path, *layers, step_timeout_s=60) as nodes, asyncio.timeout(10):
        nodes[0].net.on_written = lose_some
        assert await nodes[0].tokens(request()) == toy_answer(prompt_ids(nodes[0]), NEW)
        assert written > 3 * NEW
        assert not [e for e in nodes[0].events if isinstance(e, StageLost)]


async def test_stages_cut_off_from_each_other_are_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        first, second = chosen(nodes, 1), chosen(nodes, 2)
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if len(ids) == 3:
                first.net.cut(first.id, second.id)
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)


async def test_the_only_holder_comes_back_after_its_connection_broke(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=8) as nodes:
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            if len(ids) == 3:
                nodes[2].net.lose_streams(nodes[2].id)
        assert ids == toy_answer(prompt_ids(nodes[0]), NEW)


async def test_worker_that_is_started_again_takes_its_layers_back(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        nodes[1].workers[-1].kill_at_step = 4
        assert await nodes[0].tokens(request()) == toy_answer(prompt_ids(nodes[0]), NEW)
        assert len(nodes[1].workers) == 2


async def test_without_another_holder_the_answer_ends_with_an_error(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=0.3) as nodes:
        gone = r"^node ….{8} was lost with layers 3-6 of toy; no other node offered them within "
        with pytest.raises(Unavailable, match=gone + r"0\.\d s$") as caught:
            notices = []
            async for chunk in nodes[0].shards.backend.generate(request()):
                nodes[2].kill()
                notices += [chunk.notice] if chunk.notice else []
        assert caught.value.data["layers"] == [[3, 6]]
        # Said at once, once: whoever reads the answer would else wait without a word.
        text = f"lost layers 3-6 with …{nodes[2].id[-8:]}; waiting up to 0.3 s for another holder"
        assert notices == [text]
        (lost,) = [e for e in nodes[0].events if isinstance(e, StageLost)]
        assert lost.replacement == ""
        await until(lambda: not nodes[1].shards.stage_server.sessions())


async def test_loss_is_told_with_the_name_of_the_peer_beside_its_id(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6", resume_timeout_s=0.3) as nodes:
        lost = nodes[2]
        lost.transport.name = "kitchen"
        notices = []
        called = f'…{lost.id[-8:]} "kitchen"'
        with pytest.raises(Unavailable, match=f"node {called} was lost with layers 3-6 of toy"):
            async for chunk in nodes[0].shards.backend.generate(request()):
                lost.kill()
                notices += [chunk.notice] if chunk.notice else []
        assert nodes[0].transport.peer(lost.id) is None
        assert notices == [f"lost layers 3-6 with {called}; waiting up to 0.3 s for another holder"]


async def test_loss_that_shows_only_during_the_repair_is_told_too() -> None:
    lost: Any = SimpleNamespace(start=3, end=6, who="…bee")
    pipeline, node = mock.Mock(), mock.Mock()
    pipeline.refusal.return_value = None
    pipeline.lost.side_effect = [[], [lost]]
    node.clock.monotonic.return_value = 0.0
    node.config.resume_timeout_s = 30.0
    repair = Repair(pipeline, mock.AsyncMock(), mock.AsyncMock(), node)
    with pytest.raises(Waiting, match=r"^lost layers 3-6 with …bee; waiting up to 30 s for"):
        await repair.recover()


async def test_lying_last_stage_is_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, *PAIRS) as nodes:
        chosen(nodes, 3).workers[-1].lies = True
        assert await nodes[0].tokens(request()) == toy_answer(prompt_ids(nodes[0]), NEW)


async def test_loss_while_all_candidates_are_asked_for(tmp_path: Path) -> None:
    params: dict[str, Any] = {
        "temperature": 50.0,
        "seed": 5,
    }  # so flat that 64 candidates rarely decide
    async with toy_network(tmp_path, *PAIRS) as nodes:
        expected = await nodes[0].tokens(request(**params))
    for kill in range(1, NEW):
        async with toy_network(tmp_path, *PAIRS) as nodes:
            victim = chosen(nodes, 3)
            worker = victim.workers[-1]
            asked = 0
            candidates = worker._candidates

            def dying(*args: object, at: int = kill) -> object:
                nonlocal asked
                asked += 1
                if asked == at:
                    worker.kill("killed by the test")  # noqa: B023
                return candidates(*args)  # type: ignore[arg-type]  # noqa: B023

            worker._candidates = dying  # type: ignore[method-assign, assignment]
            assert await nodes[0].tokens(request(**params)) == expected, f"ask {kill}"
