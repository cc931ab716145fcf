"""Anthropic's own Python client against a model that three nodes hold a third of each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic, beta_async_tool
from anthropic.types import ThreadUnsupportedRequestError

from aitorrentd.api import Busy, Chunk, GenerateRequest, Unavailable
from aitorrentd.api.models.tools import ToolCall
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token, served
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import answer, shards_network

PROMPT = "SEVERALNODESHOLDAMODEL"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ASKED: list[Any] = [{"role": "user", "content": PROMPT}]


@contextlib.asynccontextmanager
async def client_of(address: str, **key: Any) -> AsyncIterator[AsyncAnthropic]:
    given = key or {"api_key": "none"}
    async with AsyncAnthropic(base_url=f"http://{address}", max_retries=0, **given) as client:
        yield client


async def test_the_sdk_over_a_split_model(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m")
    (path / "chat_template.jinja").write_text(TEMPLATE)
    nodes = await shards_network(node_factory, path, ["0-2", "2-4", "4-6"])
    address = await served(nodes[0])
    expected = (await answer(nodes[1], PROMPT, temperature=0.0, max_tokens=12))["text"]
    # the client's types no longer have it, but clients still send it
    greedy: dict[str, Any] = {"temperature": 0}
    async with client_of(address) as client:
        (model,) = [each async for each in await client.models.list()]
        assert (model.id, model.type, model.lifecycle) == ("m", "model", "active")
        assert model.max_input_tokens is not None
        assert (await client.models.retrieve("m")).id == "m"

        whole = await client.messages.create(
            model="m", messages=ASKED, max_tokens=12, extra_body=greedy
        )
        (block,) = whole.content
        assert block.type == "text"
        assert block.text == expected
        assert (whole.role, whole.model, whole.stop_reason) == ("assistant", "m", "max_tokens")
        assert (whole.usage.input_tokens, whole.usage.output_tokens) == (len(PROMPT), 12)

        async with client.messages.stream(
            model="m", messages=ASKED, max_tokens=12, extra_body=greedy
        ) as stream:
            text = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        assert ("".join(text), len(text) > 1) == (expected, True)
        assert (final.content[0].to_dict()["text"], final.stop_reason) == (expected, "max_tokens")
        assert final.usage.input_tokens == whole.usage.input_tokens
        assert final.usage.output_tokens == whole.usage.output_tokens

        counted = await client.messages.count_tokens(model="m", messages=ASKED)
        assert counted.input_tokens == whole.usage.input_tokens

        stop = expected[4:6]
        stopped = await client.messages.create(
            model="m",
            messages=ASKED,
            max_tokens=12,
            stop_sequences=[stop, "never"],
            extra_body=greedy,
        )
        (block,) = stopped.content
        assert block.type == "text"
        assert block.text == expected[: expected.index(stop)]
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)

        form: Any = {"type": "json_schema", "schema": {"type": "boolean"}}
        json_one = await client.messages.create(
            model="m",
            messages=ASKED,
            max_tokens=12,
            output_config={"format": form},
        )
        (block,) = json_one.content
        assert block.type == "text"
        assert json.loads(block.text) in (True, False)

        # agents send a max_tokens that no small model has room for
        async with client.messages.stream(model="m", messages=ASKED, max_tokens=32_000) as stream:
            async for _ in stream.text_stream:
                break

        with pytest.raises(anthropic.NotFoundError, match="none"):
            await client.messages.count_tokens(model="none", messages=ASKED)
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(model="none", messages=ASKED, max_tokens=1)
        assert (missing.value.type, missing.value.request_id is None) == ("not_found_error", False)

        long_one: list[Any] = [{"role": "user", "content": "A" * 600}]
        with pytest.raises(
            anthropic.BadRequestError, match=r"prompt is too long: 600 tokens > \d+ maximum"
        ):
            await client.messages.create(model="m", messages=long_one, max_tokens=9, stream=True)


@pytest.mark.parametrize("key", ["api_key", "auth_token"])
async def test_tokens_are_sent_as_key_or_bearer(node_factory: NodeFactory, key: str) -> None:
    node, address = await gateway_node(node_factory, FakeBackend("f"), anonymous=[])
    wanted: dict[str, Any] = {"model": "m", "messages": ASKED, "max_tokens": 9}
    async with client_of(address, **{key: await new_token(node, "generate")}) as client:
        assert (await client.messages.create(**wanted)).stop_reason == "end_turn"
    for wrong in ("none", "ait_" + "x" * 43):
        async with client_of(address, **{key: wrong}) as stranger:
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await stranger.messages.create(**wanted)
            assert refused.value.type == "authentication_error"


async def test_tool_round_trip(node_factory: NodeFactory) -> None:
    call = ToolCall(id="toolu_1", name="read", arguments='{"path": "a"}')
    backend = FakeBackend(
        "f", words=("I look",), last=Chunk("", done=True, reason="stop", tool_calls=(call,))
    )
    _, address = await gateway_node(node_factory, backend)
    tools: list[Any] = [
        {"name": "read", "description": "reads", "input_schema": {"type": "object"}}
    ]
    async with client_of(address) as client:
        async with client.messages.stream(
            model="m", messages=ASKED, max_tokens=9, tools=tools, tool_choice={"type": "any"}
        ) as stream:
            kinds = [event.type async for event in stream]
            first = await stream.get_final_message()
        assert "input_json" in kinds
        text, used = first.content
        assert (text.type, used.type, first.stop_reason) == ("text", "tool_use", "tool_use")
        assert used.type == "tool_use"
        assert (used.id, used.name, used.input) == ("toolu_1", "read", {"path": "a"})
        assert backend.requests[-1].tool_choice == "required"

        result: Any = {"type": "tool_result", "tool_use_id": used.id, "content": "A"}
        backend.last = None
        await client.messages.create(
            model="m",
            messages=[*ASKED, first.to_param(), {"role": "user", "content": [result]}],
            max_tokens=9,
            tools=tools,
        )
    turns = backend.requests[-1].messages or ()
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert turns[1].tool_calls == (call,)
    assert (turns[2].content, turns[2].tool_call_id) == ("A", "toolu_1")


class Looking(FakeBackend):
    """Calls `look`, and answers when it knows what that found."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        if (request.messages or ())[-1].role == "tool":
            yield Chunk("done", done=True, reason="stop")
            return
        call = ToolCall(id="toolu_1", name="look", arguments='{"at": "Bern"}')
        yield Chunk("", done=True, reason="tool_calls", tool_calls=(call,))


@beta_async_tool  # type: ignore[untyped-decorator]
async def look(at: str) -> str:
    """Look there."""
    return f"sunny in {at}"


@pytest.mark.parametrize("streams", [False, True])
async def test_tool_runner_sends_the_whole_conversation(
    node_factory: NodeFactory, streams: bool
) -> None:
    """It asks the server to keep the conversation, and would send only the result of the tool."""
    backend = Looking("f")
    _, address = await gateway_node(node_factory, backend)
    asked: dict[str, Any] = {"model": "m", "messages": ASKED, "max_tokens": 9, "system": "S"}
    async with client_of(address) as client:
        runner = client.beta.messages.tool_runner(**asked, tools=[look], stream=streams)
        last = await runner.until_done()
    assert [block.model_dump(include={"text"}) for block in last.content] == [{"text": "done"}]
    first, second = backend.requests
    assert [turn.role for turn in first.messages or ()] == ["system", "user"]
    assert [turn.role for turn in second.messages or ()] == ["system", "user", "assistant", "tool"]
    assert (second.messages or ())[-1].content == "sunny in Bern"
    assert [tool.name for tool in second.tools] == ["look"]


async def test_conversations_are_not_kept(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    async with client_of(address) as client:
        with pytest.raises(ThreadUnsupportedRequestError, match="thread is not"):
            await client.beta.messages.create(
                model="m", messages=ASKED, max_tokens=9, thread={"type": "create"}
            )


async def test_busy_node_is_asked_again(node_factory: NodeFactory) -> None:
    backend = FakeBackend("f", words=(), fails=Busy("full"))
    _, address = await gateway_node(node_factory, backend)
    wanted: dict[str, Any] = {"model": "m", "messages": ASKED, "max_tokens": 9}
    async with client_of(address) as client:
        with pytest.raises(anthropic.RateLimitError):
            await client.with_options(max_retries=1).messages.create(**wanted)
        assert len(backend.requests) == 2
        backend.fails = Unavailable("no peer holds layers 4-8 of m")
        with pytest.raises(anthropic.ServiceUnavailableError, match="layers 4-8"):
            await client.with_options(max_retries=1).messages.create(**wanted)
        assert len(backend.requests) == 3  # `x-should-retry: false`
