"""OpenAI's own Python client against a model that three nodes hold a third of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.support.http_nodes import served
from tests.support.nodes import NodeFactory
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import answer, shards_network

PROMPT = "SEVERALNODESHOLDAMODEL"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ASKED: list[Any] = [{"role": "user", "content": PROMPT}]


@contextlib.asynccontextmanager
async def client_of(url: str, key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


class Verdict(BaseModel):
    fine: bool
    why: Literal["a", "b"]


async def _probabilities(client: AsyncOpenAI, expected: str) -> None:
    """The likeliest token is the one that greedy sampling takes; biases and choices work."""
    asked: Any = {"model": "m", "messages": ASKED, "temperature": 0, "max_tokens": 6}
    whole = await client.chat.completions.create(**asked, n=2, logprobs=True, top_logprobs=2)
    for choice in whole.choices:
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert len(tokens) == 6
        assert "".join(token.token for token in tokens) == choice.message.content
        assert expected.startswith(choice.message.content or "-")
        for token in tokens:
            first, second = token.top_logprobs
            assert (first.token, first.logprob) == (token.token, token.logprob)
            assert second.logprob <= first.logprob < 0
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    best = tokens[0]
    ident = (best.model_extra or {})["id"]
    other = await client.chat.completions.create(**asked, logit_bias={str(ident): -100})
    assert (other.choices[0].message.content or "").startswith(best.top_logprobs[1].token)
    legacy = await client.completions.create(
        model="m", prompt=PROMPT, temperature=0, max_tokens=2, logprobs=1
    )
    shown = legacy.choices[0].logprobs
    assert shown is not None
    assert "".join(shown.tokens or ()) == legacy.choices[0].text
    assert (shown.text_offset or [])[:2] == [0, len((shown.tokens or [""])[0])]


async def _responses(client: AsyncOpenAI, expected: str) -> None:
    made = await client.responses.create(
        model="m", input=PROMPT, temperature=0, max_output_tokens=12
    )
    assert (made.output_text, made.status) == (expected, "incomplete")
    counted = await client.responses.input_tokens.count(model="m", input=PROMPT)
    assert made.usage is not None
    assert counted.input_tokens == made.usage.input_tokens
    async with client.responses.stream(
        model="m", input=ASKED, temperature=0, max_output_tokens=12
    ) as stream:
        text = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
    assert text == expected
    for seed in range(3):
        parsed = await client.chat.completions.parse(
            model="m", messages=ASKED, response_format=Verdict, seed=seed, temperature=2
        )
        assert parsed.choices[0].message.parsed is not None
        answered = await client.responses.parse(model="m", input=PROMPT, text_format=Verdict)
        assert answered.output_parsed is not None


async def test_the_sdk_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    nodes = await shards_network(node_factory, path, ["0-2", "2-4", "4-6"])
    url = f"http://{await served(nodes[0])}/v1"
    expected = (await answer(nodes[1], PROMPT, temperature=0.0, max_tokens=12))["text"]
    async with client_of(url) as client:
        assert [model.id async for model in await client.models.list()] == ["m"]
        assert (await client.models.retrieve("m")).id == "m"

        whole = await client.chat.completions.create(
            model="m", messages=ASKED, temperature=0, max_tokens=12
        )
        (choice,) = whole.choices
        assert (choice.message.content, choice.finish_reason) == (expected, "length")
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 12
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
        assert whole.model_extra is not None
        told = whole.model_extra["x_aitorrent"]
        assert (told["stages"], told["hops"]) == ([[0, 2], [2, 4], [4, 6]], 4)
        speeds = ("hop_ms", "first_token_ms", "prefill_tok_s", "decode_tok_s")
        assert all(told[name] > 0 for name in speeds)
        assert told["queue_ms"] >= 0

        text, reasons, usage = "", [], None
        async for chunk in await client.chat.completions.create(
            model="m",
            messages=ASKED,
            temperature=0,
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        ):
            usage = chunk.usage or usage
            for part in chunk.choices:
                text += part.delta.content or ""
                reasons.append(part.finish_reason)
        assert (text, reasons[-1], set(reasons[:-1])) == (expected, "length", {None})
        assert usage == whole.usage

        stop = expected[4:6]
        stopped = await client.chat.completions.create(
            model="m", messages=ASKED, temperature=0, max_tokens=12, stop=[stop, "never"]
        )
        assert stopped.choices[0].message.content == expected[: expected.index(stop)]
        assert stopped.choices[0].finish_reason == "stop"

        drawn = [
            await client.chat.completions.create(
                model="m", messages=ASKED, temperature=1.5, seed=seed, max_tokens=12
            )
            for seed in (-7, -7, 8)
        ]
        texts = [each.choices[0].message.content for each in drawn]
        assert texts[0] == texts[1] != texts[2]

        legacy = await client.completions.create(
            model="m", prompt=PROMPT, temperature=0, max_tokens=12
        )
        raw = await answer(nodes[1], PROMPT, raw=True, temperature=0.0, max_tokens=12)
        assert legacy.choices[0].text == raw["text"]

        # agents send a max_tokens that no small model has room for
        async with client.chat.completions.stream(
            model="m", messages=ASKED, temperature=0, max_tokens=32_000
        ) as stream:
            async for event in stream:
                if event.type == "content.delta":
                    break

        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="none", messages=ASKED)
        assert missing.value.code == "model_not_found"
        assert missing.value.request_id is not None

        with pytest.raises(openai.BadRequestError) as long:
            long_one: list[Any] = [{"role": "user", "content": "A" * 600}]
            await client.chat.completions.create(model="m", messages=long_one, stream=True)
        assert long.value.code == "context_length_exceeded"

        json_one = await client.chat.completions.create(
            model="m",
            messages=ASKED,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "is", "schema": {"type": "boolean"}},
            },
        )
        assert json.loads(json_one.choices[0].message.content or "") in (True, False)

        await _probabilities(client, expected)
        await _responses(client, expected)

    async with client_of(url, key="ait_" + "x" * 43) as stranger:
        with pytest.raises(openai.AuthenticationError, match="unknown, revoked or expired"):
            await stranger.models.list()
