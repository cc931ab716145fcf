"""The backend's face: what clients ask for and what they are told."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    BACKENDS,
    Busy,
    Chunk,
    GenerateRequest,
    InvalidParams,
    NotFound,
    SamplingParams,
    Unavailable,
)
from tests.support.shards.shards_fakes import (
    EOS,
    FakeNode,
    ToyWorker,
    toy_answer,
    toy_network,
    until,
)


def request(prompt: str = "hello", model: str = "toy", **params: Any) -> GenerateRequest:
    usual = {"max_tokens": 8, "temperature": 0}
    return GenerateRequest(
        model=model, prompt=prompt, params=SamplingParams.model_validate(usual | params)
    )


async def chunks(node: FakeNode, asked: GenerateRequest) -> list[Chunk]:
    return [chunk async for chunk in node.shards.backend.generate(asked)]


async def test_last_chunk_tells_counts_context_and_stages(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        found = await chunks(nodes[0], request())
        last = found[-1]
        assert [c.done for c in found] == [False] * (len(found) - 1) + [True]
        assert (last.reason, last.prompt_tokens, last.completion_tokens) == ("length", 5, 8)
        ids = [i for c in found for i in c.token_ids]
        assert last.context is not None
        assert list(last.context[5:]) == ids
        assert [(s.peer, s.start, s.end) for s in last.stages] == [
            (nodes[0].id, 0, 3),
            (nodes[1].id, 3, 6),
        ]
        assert set(last.extra) == {"ttft_s", "decode_s", "tokens_per_s", "hop_us", "stop_text"}
        assert 0 < last.extra["hop_us"] < 1e6 * last.extra["decode_s"]


async def test_tokens_are_counted_as_the_answer_counts_them(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        backend = nodes[0].shards.backend
        for asked in (request("abc"), request("abc", context=[1, 2, 3])):
            last = (await chunks(nodes[0], asked))[-1]
            assert await backend.count_tokens(asked) == last.prompt_tokens > 0
        with pytest.raises(NotFound, match="no model 'none' here"):
            await backend.count_tokens(request("abc", "none"))


async def test_context_continues_where_an_answer_ended(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        first = (await chunks(nodes[0], request()))[-1]
        assert first.context is not None
        again = request("!", context=first.context)
        found = await chunks(nodes[0], again)
        tokenizer = nodes[0].shards.models["toy"].tokenizer
        assert tokenizer is not None
        prompt = [*first.context, *tokenizer.encode("!")]
        assert [i for c in found for i in c.token_ids] == toy_answer(prompt, 8)


async def test_same_seed_gives_the_same_answer_on_any_route(tmp_path: Path) -> None:
    answers = []
    for n, layers in enumerate((["all"], ["0-3", "3-6"], ["0-2", "2-4", "4-6"])):
        async with toy_network(tmp_path / str(n), *layers) as nodes:
            asked = request(temperature=1.3, top_p=0.9, seed=42, max_tokens=20)
            answers.append(await nodes[0].tokens(asked))
            other = request(temperature=1.3, top_p=0.9, seed=43, max_tokens=20)
            assert await nodes[0].tokens(other) != answers[-1]
    assert answers[0] == answers[1] == answers[2]


async def test_answer_without_a_seed_differs_from_time_to_time(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        asked = request(temperature=2.0, max_tokens=20)
        assert await nodes[0].tokens(asked) != await nodes[0].tokens(asked)


async def test_answer_ends_before_a_stop_text(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        whole = "".join(c.text for c in await chunks(nodes[0], request(max_tokens=30)))
        stop = whole[4:6]
        found = await chunks(nodes[0], request(max_tokens=30, stop=(stop,)))
        assert "".join(c.text for c in found) == whole[: whole.index(stop)]
        assert found[-1].reason == "stop"
        await until(lambda: not nodes[0].workers[0].sessions)


async def test_end_token_ends_the_answer_and_is_no_text(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        found = await chunks(nodes[0], request(temperature=100.0, seed=1, max_tokens=400))
        assert found[-1].reason == "stop"
        assert found[-1].context is not None
        assert found[-1].context[-1] == EOS
        assert EOS not in found[-1].context[:-1]
        assert "</s>" not in "".join(c.text for c in found)


async def test_prompt_longer_than_the_context_is_named_with_its_numbers(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all", model={"context": 64}) as nodes:
        with pytest.raises(
            InvalidParams,
            match="prompt has 60 tokens, which with max_tokens 8 exceeds the context of 64 tokens",
        ):
            await chunks(nodes[0], request("x" * 60))
        with pytest.raises(InvalidParams, match="has 65 tokens; toy has a context of 64 tokens"):
            await chunks(nodes[0], request("x" * 65))
        assert len(await nodes[0].tokens(request("x" * 56, max_tokens=None))) == 8


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        (request(model="other"), NotFound, "no model 'other' here; configured models: toy"),
        (request(prompt=""), InvalidParams, "the prompt is empty"),
        (request(num_ctx=8, think=True), InvalidParams, "toy cannot apply num_ctx"),
        (request(format={"type": "x"}), InvalidParams, "format: the schema cannot be applied"),
        (
            GenerateRequest.model_validate(
                {"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "look"}]}
            ),
            InvalidParams,
            "toy does not support tools: its chat template has no place",
        ),
        (request(context=(1, 999)), InvalidParams, "outside the vocabulary of 258"),
        (
            GenerateRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]}),
            InvalidParams,
            "toy has no chat template",
        ),
    ],
)
async def test_bad_request_is_refused_with_a_way_out(
    tmp_path: Path, asked: GenerateRequest, error: type[Exception], text: str
) -> None:
    async with toy_network(tmp_path, "all") as nodes:
        with pytest.raises(error, match=text):
            await chunks(nodes[0], asked)
        assert nodes[0].shards.backend.answering == 0


async def test_layers_without_a_holder_are_named(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-2", "4-6") as nodes:
        other = nodes[1].id[-8:]
        expected = (
            f"no reachable node holds layers 2-4 of toy; held are 0-2 this node, 4-6 …{other}"
        )
        with pytest.raises(Unavailable, match=f"^{expected}$"):
            await nodes[0].shards.backend.models()
        (pending,) = nodes[0].shards.backend.pending()
        assert (pending.name, pending.state, pending.detail) == ("toy", "incomplete", expected)
        assert pending.missing == ((2, 4),)
        assert [(h.peer, h.start, h.end) for h in pending.layers] == [
            (nodes[0].id, 0, 2),
            (nodes[1].id, 4, 6),
        ]
        with pytest.raises(Unavailable, match="no reachable node holds layers 2-4 of toy"):
            await chunks(nodes[0], request())


async def test_models_tell_who_holds_what(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "0-3", "3-6") as nodes:
        (view,) = await nodes[0].shards.backend.models()
        assert (view.name, view.backend, view.family) == ("toy", "shards", "llama")
        assert view.context_length == 512
        assert view.detail == f"float32; 0-3 …{nodes[1].id[-8:]}, 3-6 …{nodes[2].id[-8:]}"
        assert nodes[0].service(BACKENDS).names() == ["shards"]


async def test_models_tell_what_this_node_keeps_on_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device, on_card in ("cpu", 0), ("cuda:0", 1):
        monkeypatch.setattr(ToyWorker, "device", device)
        async with toy_network(tmp_path, "0-3", "3-6") as nodes:
            (view,) = await nodes[0].shards.backend.models()
            assert [part.vram_bytes for part in view.layers] == [on_card, None]


async def test_full_stages_are_busy_and_others_take_over(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "none", "all", "all") as nodes:
        for worker in (nodes[1].workers[0], nodes[2].workers[0]):
            worker.full = True
        with pytest.raises(Busy, match="no room for the cache"):
            await chunks(nodes[0], request())
        nodes[2].workers[0].full = False
        await until(lambda: nodes[0].net.records)
        found = await chunks(nodes[0], request())
        assert found[-1].stages[0].peer == nodes[2].id


async def test_log_tells_once_that_a_node_refuses_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with toy_network(tmp_path, "none", "all") as nodes:
            nodes[1].workers[0].full = True
            for _ in range(3):
                with pytest.raises(Busy, match="no room for the cache"):
                    await chunks(nodes[0], request())
    lines = [r for r in caplog.records if "does not accept layers" in r.message]
    assert [r.levelno for r in lines] == [logging.INFO]


async def test_too_many_answers_are_busy(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all", max_answers=1) as nodes:
        running = nodes[0].shards.backend.generate(request())
        await anext(running)
        with pytest.raises(Busy, match="1 answers are running"):
            await chunks(nodes[0], request())
        await running.aclose()
        assert len(await nodes[0].tokens(request())) == 8


async def test_vanished_client_frees_every_stage(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-2", "2-4", "4-6") as nodes:
        answers = [nodes[0].shards.backend.generate(request(max_tokens=100)) for _ in range(4)]
        for running in answers:
            await anext(running)
        assert [len(n.workers[0].sessions) for n in nodes] == [4, 4, 4]
        for running in answers:
            await running.aclose()
        await until(lambda: not any(n.workers[0].sessions for n in nodes))
        assert nodes[0].shards.backend.answering == 0


@pytest.mark.jump_clock
async def test_slow_reader_loses_no_stage(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-2", "2-4", "4-6", step_timeout_s=5) as nodes:
        ids: list[int] = []
        async for chunk in nodes[0].shards.backend.generate(request()):
            ids += chunk.token_ids
            steps = len(ids) + 1
            await until(lambda steps=steps: nodes[2].workers[0].steps >= min(steps, 8))  # type: ignore[misc]
            await asyncio.sleep(60)  # longer than a step may take
        assert len(ids) == 8
        assert nodes[0].events == []


async def test_free_memory_in_the_record_follows_the_sessions(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "all", model={"context": 50_000}) as nodes:

        def free() -> int:
            return nodes[0].shards.spans()[0].free_positions

        assert free() == 100_000
        running = nodes[0].shards.backend.generate(request(max_tokens=-1))
        await anext(running)
        await until(lambda: free() == 50_000)  # half of it: the prompt and the rest
        await running.aclose()
        await until(lambda: free() == 100_000)
        running = nodes[0].shards.backend.generate(request(max_tokens=40_000))
        await anext(running)
        await until(lambda: free() == 59_995)
        await running.aclose()
        await until(lambda: free() == 100_000)


async def test_model_defaults_come_from_its_makers(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    made = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    (folder / "generation_config.json").write_text(json.dumps(made))
    async with toy_network(tmp_path, "all") as nodes:
        tokenizer = nodes[0].shards.models["toy"].tokenizer
        assert tokenizer is not None
        usual = tokenizer.generation
        assert (usual.temperature, usual.top_k, usual.top_p) == (0.6, 20, 0.95)


async def test_penalty_and_min_p_of_the_request_replace_those_of_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    folder.mkdir()
    made = {"do_sample": True, "min_p": 0.2, "repetition_penalty": 4.0}
    (folder / "generation_config.json").write_text(json.dumps(made))
    async with toy_network(tmp_path, "all") as nodes:
        greedy = await nodes[0].tokens(request(max_tokens=24, repeat_penalty=1))
        penalised = await nodes[0].tokens(request(max_tokens=24))
        assert await nodes[0].tokens(request(max_tokens=24, repeat_penalty=4)) == penalised
        wishes: dict[str, Any] = {
            "temperature": 2,
            "seed": 1,
            "repeat_penalty": 1,
            "max_tokens": 24,
        }
        likeliest = await nodes[0].tokens(request(min_p=1, **wishes))
        usual = await nodes[0].tokens(request(**wishes))
    assert greedy != penalised
    assert likeliest == greedy != usual


async def test_penalties_of_the_answer_apply_to_its_own_tokens(tmp_path: Path) -> None:
    async with toy_network(tmp_path, "0-3", "3-6") as nodes:
        wishes: dict[str, Any] = {"prompt": "abcabc", "max_tokens": 40, "temperature": 0}
        greedy = await nodes[0].tokens(request(**wishes))
        eager = await nodes[0].tokens(request(presence_penalty=-2, **wishes))
        varied = await nodes[0].tokens(request(presence_penalty=2, frequency_penalty=2, **wishes))
        latest = await nodes[0].tokens(request(repeat_penalty=4, repeat_last_n=16, **wishes))
        longer = await nodes[0].tokens(request(repeat_penalty=4, repeat_last_n=-1, **wishes))
        none = await nodes[0].tokens(request(repeat_penalty=4, repeat_last_n=0, **wishes))
    assert len(set(varied)) > len(set(greedy)) > len(set(eager))
    assert none == greedy
    assert len({tuple(greedy), tuple(latest), tuple(longer)}) == 3


@pytest.mark.parametrize("temperature", [0, 0.8])
async def test_rules_of_the_model_hold_over_any_split_and_after_a_lost_stage(
    tmp_path: Path, temperature: float
) -> None:
    wishes: dict[str, Any] = {"temperature": temperature, "seed": 5, "max_tokens": 24}
    answers = []
    for name, layers in (
        ("one", ["all"]),
        ("two", ["0-3", "3-6"]),
        ("lost", ["0-3", "3-6", "3-6"]),
    ):
        (tmp_path / name / "toy").mkdir(parents=True)
        (tmp_path / name / "toy" / "generation_config.json").write_text(
            json.dumps({"repetition_penalty": 4.0, "no_repeat_ngram_size": 1})
        )
        async with toy_network(tmp_path / name, *layers) as nodes:
            if name == "lost":
                min(nodes[1:], key=lambda n: n.id).workers[-1].kill_at_step = 9
            answers.append(await nodes[0].tokens(request(**wishes)))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == len(set(answers[0])) == 24  # no token twice
