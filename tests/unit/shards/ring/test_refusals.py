"""A stage that refuses the request ends the answer at once, and is not blamed for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aitorrentd.api import (
    AitorrentError,
    GenerateRequest,
    InvalidParams,
    ProtocolError,
    Record,
    SamplingParams,
    StageLost,
    TooLarge,
    Unavailable,
    short,
)
from tests.support.shards.shards_fakes import FakeNode, ToyWorker, toy_answer, toy_network, until

pytestmark = pytest.mark.jump_clock

PATIENCE_S = 60.0
"How long an answer would wait for another holder."


def request(**params: object) -> GenerateRequest:
    return GenerateRequest(
        model="toy",
        prompt="hello",
        params=SamplingParams.model_validate({"max_tokens": 8, "temperature": 0} | params),
    )


async def answers_as_ever(node: FakeNode) -> bool:
    tokenizer = node.shards.models["toy"].tokenizer
    assert tokenizer is not None
    return await node.tokens(request()) == toy_answer(tokenizer.encode("hello"), 8)


NOT_FINITE = InvalidParams("the logits of the last position are not finite numbers")


@pytest.mark.parametrize("refusing", [0, 1, 2])
@pytest.mark.parametrize("operation", ["open", "step"])
@pytest.mark.parametrize("error", [NOT_FINITE, TooLarge("the session sends too much")])
async def test_refused_request_ends_the_answer_at_once_and_the_node_is_not_avoided(
    tmp_path: Path, refusing: int, operation: str, error: AitorrentError
) -> None:
    layers = ["0-2", "2-4", "4-6"]
    async with toy_network(tmp_path, *layers, resume_timeout_s=PATIENCE_S) as nodes:
        worker = nodes[refusing].workers[-1]
        worker.refuses[operation] = error
        began = time.monotonic()
        with pytest.raises(type(error), match=error.message):
            await nodes[0].tokens(request())
        assert time.monotonic() - began < PATIENCE_S / 4
        assert not [e for e in nodes[0].events if isinstance(e, StageLost)]
        await until(lambda: not any(n.shards.stage_server.sessions() for n in nodes))
        worker.refuses.clear()
        assert await answers_as_ever(nodes[0])


async def test_request_refused_in_the_middle_of_an_answer_ends_it_with_the_reason(
    tmp_path: Path,
) -> None:
    async with toy_network(tmp_path, "0-3", "3-6", resume_timeout_s=PATIENCE_S) as nodes:
        last = nodes[1].workers[-1]
        chunks = nodes[0].shards.backend.generate(request(max_tokens=100))
        await anext(chunks)
        last.refuses["step"] = NOT_FINITE
        with pytest.raises(InvalidParams, match="not finite"):
            async for _ in chunks:
                pass
        assert not [e for e in nodes[0].events if isinstance(e, StageLost)]


async def test_refused_wish_for_more_candidates_ends_the_answer(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6", resume_timeout_s=PATIENCE_S) as nodes:
        nodes[1].workers[-1].refuses["candidates"] = InvalidParams("k is too large")
        with pytest.raises(InvalidParams, match="k is too large"):
            await nodes[0].tokens(request(temperature=50, seed=3, max_tokens=60))


async def test_refusal_counts_although_another_holder_is_there(tmp_path: Path) -> None:
    def refuse(worker: ToyWorker) -> None:
        worker.refuses["step"] = NOT_FINITE

    async with toy_network(tmp_path, "0-3", "3-6", "3-6", resume_timeout_s=PATIENCE_S) as nodes:
        for node in nodes[1:]:
            refuse(node.workers[-1])
        with pytest.raises(InvalidParams, match="not finite"):
            await nodes[0].tokens(request())
        assert not [e for e in nodes[0].events if isinstance(e, StageLost)]


async def test_stage_that_breaks_the_protocol_is_still_replaced(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6", "3-6") as nodes:
        first = min(nodes[1:], key=lambda n: n.id)
        first.workers[-1].refuses["step"] = ProtocolError("the worker sent an invalid frame")
        assert await answers_as_ever(nodes[0])
        (lost,) = [e for e in nodes[0].events if isinstance(e, StageLost)]
        assert lost.peer == first.id


@pytest.mark.parametrize("temperature", [1e-6, 9.9e-5])
async def test_temperature_that_no_stage_takes_is_refused_before_anything_is_computed(
    tmp_path: Path, temperature: float
) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        with pytest.raises(InvalidParams, match="use 0 for the likeliest token, or at least"):
            await nodes[0].tokens(request(temperature=temperature))
        assert nodes[0].workers[-1].steps == 0
        assert await nodes[0].tokens(request(temperature=1e-4, seed=1))


async def test_holder_of_another_version_is_never_asked_and_named(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        here, _, last = nodes
        (key,) = (k for k, peer in here.net.records if peer == last.id and "shard" in k)
        record = here.net.records[key, last.id]
        old = Record(key, last.id, {**record.value, "v": 1}, record.addresses)
        here.net.records[key, last.id] = old
        said = rf"layers 3-6 of toy; {short(last.id)} holds layers 3-6 but speaks version 1 of"
        with pytest.raises(Unavailable, match=said):
            await here.tokens(request())
        (pending,) = here.shards.backend.pending()
        assert f"{short(last.id)} holds layers 3-6 but speaks version 1 of the" in pending.detail
        assert not last.workers[0].sessions
        here.net.records[key, last.id] = record
        assert await here.tokens(request())
