"""/v1/responses with OpenAI's own Python client, and byte for byte where clients depend on it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel

from aitorrentd.api import Busy, Chunk, InvalidParams, StageView, Unavailable
from aitorrentd.api.models.logprobs import TokenLogprob
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.raw_http import exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory

END = Chunk(
    "",
    done=True,
    reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    extra={"reasoning_tokens": 1},
    stages=(StageView("peer-a", 0, 2), StageView("peer-b", 2, 4)),
)
CUT = Chunk("", done=True, reason="length", prompt_tokens=3, completion_tokens=4)
WEATHER: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


@contextlib.asynccontextmanager
async def client_of(
    factory: NodeFactory, backend: FakeBackend
) -> AsyncIterator[tuple[AsyncOpenAI, str]]:
    """OpenAI's client of a node over this backend, and the node's address."""
    _, address = await gateway_node(factory, backend)
    url = f"http://{address}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client, address


async def test_response_whole(node_factory: NodeFactory) -> None:
    backend = ScriptedBackend(Chunk("", thinking="hm"), Chunk("so "), Chunk("it is"), END)
    async with client_of(node_factory, backend) as (client, _):
        made = await client.responses.create(
            model="m",
            instructions="be brief",
            input="is it?",
            max_output_tokens=50,
            temperature=0.5,
            reasoning={"effort": "low", "summary": "auto"},
            store=True,
            metadata={"a": "b"},
        )
        assert made.output_text == "so it is"
        assert [item.type for item in made.output] == ["reasoning", "message"]
        assert made.output[0].type == "reasoning"
        assert [part.text for part in made.output[0].summary] == ["hm"]
        assert (made.status, made.error, made.incomplete_details) == ("completed", None, None)
        assert made.usage is not None
        assert (made.usage.input_tokens, made.usage.output_tokens) == (3, 4)
        assert made.usage.output_tokens_details.reasoning_tokens == 1
        assert (made.instructions, made.temperature) == ("be brief", 0.5)
        assert made.metadata == {"a": "b"}
        assert made.completed_at is not None
        assert made.completed_at >= made.created_at
        shown = made.model_dump()
        assert shown["store"] is False  # nothing is kept, and the response says so
        assert shown["x_aitorrent"]["stages"] == [[0, 2], [2, 4]]
        asked = backend.requests[-1]
        assert [(turn.role, turn.content) for turn in asked.messages or ()] == [
            ("system", "be brief"),
            ("user", "is it?"),
        ]
        assert (asked.params.max_tokens, asked.params.think) == (50, "low")

        backend.script = (Chunk("so"), CUT)
        cut = await client.responses.create(model="m", input="is it?")
        assert (cut.status, cut.output[0].model_dump()["status"]) == ("incomplete", "incomplete")
        assert cut.incomplete_details is not None
        assert cut.incomplete_details.reason == "max_output_tokens"

        backend.script = (END,)
        empty = await client.responses.create(model="m", input="is it?")
        assert (empty.output_text, len(empty.output)) == ("", 1)


async def test_events_have_exactly_this_order(node_factory: NodeFactory) -> None:
    """litellm 22102, 24445: texts came before their item and part; litellm 28899: numbers were
    missing; vllm 56285: items had other ids in the response than in the events."""
    call = ToolCall(id="c1", name="weather", arguments='{"at":"B"}')
    script = (Chunk("", thinking="hm"), Chunk("let "), Chunk("me"), Chunk("", tool_calls=(call,)))
    backend = ScriptedBackend(*script, END)
    async with client_of(node_factory, backend) as (client, address):
        fields = {"model": "m", "input": "?", "tools": [WEATHER], "stream": True}
        body = json.dumps(fields).encode()
        head = {"Content-Type": "application/json"}
        answer = await exchange(address, request("POST", "/v1/responses", head, body))
        assert answer.status == 200
        told = [event.split("\ndata: ") for event in answer.body.decode().split("\n\n")[:-1]]
        events = [json.loads(data) for _, data in told]
        assert [kind for kind, _ in told] == [f"event: {event['type']}" for event in events]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert [event["type"].removeprefix("response.") for event in events] == [
            "created",
            "in_progress",
            "output_item.added",
            "reasoning_summary_part.added",
            "reasoning_summary_text.delta",
            "reasoning_summary_text.done",
            "reasoning_summary_part.done",
            "output_item.done",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        final = events[-1]["response"]
        done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
        assert final["output"] == done
        assert [e["output_index"] for e in events if "item" in e] == [0, 0, 1, 1, 2, 2]
        assert {e["item_id"] for e in events if "item_id" in e} == {item["id"] for item in done}
        assert {e["response"]["id"] for e in events if "response" in e} == {final["id"]}
        assert done[2] == {
            "id": done[2]["id"],
            "type": "function_call",
            "status": "completed",
            "arguments": '{"at":"B"}',
            "call_id": "c1",
            "name": "weather",
        }
        # what the SDK puts together
        async with client.responses.stream(model="m", input="?", tools=[WEATHER]) as stream:
            kinds = [event.type async for event in stream]
            got = await stream.get_final_response()
        assert kinds[0] == "response.created"
        assert got.output_text == "let me"
        assert got.output[2].type == "function_call"


class Verdict(BaseModel):
    fine: bool


async def test_parse_and_log_probabilities(node_factory: NodeFactory) -> None:
    token = TokenLogprob('{"fine":true}', -0.5, 7, None, (TokenLogprob("{", -0.5),))
    backend = ScriptedBackend(Chunk('{"fine":true}', logprobs=(token,)), END)
    async with client_of(node_factory, backend) as (client, _):
        made = await client.responses.parse(model="m", input="?", text_format=Verdict)
        assert made.output_parsed == Verdict(fine=True)
        schema = backend.requests[-1].params.format
        assert isinstance(schema, dict)
        assert schema["properties"]["fine"]["type"] == "boolean"
        with_logprobs = await client.responses.create(
            model="m", input="?", include=["message.output_text.logprobs"], top_logprobs=1
        )
        part = with_logprobs.output[0].model_dump()["content"][0]
        assert part["logprobs"][0]["logprob"] == -0.5
        assert part["logprobs"][0]["top_logprobs"][0]["bytes"] == [123]


async def test_calls_go_back_and_forth(node_factory: NodeFactory) -> None:
    """What a client gets, it can send again: calls, thoughts and results, also of tools in a
    namespace (ollama 17618, lmstudio 1810, llama.cpp 20156: refused) and of custom ones (vllm
    56285: left out)."""
    calls = (
        ToolCall(id="c1", name="weather", arguments='{"at":"B"}'),
        ToolCall(id="c2", name="files.read"),
        ToolCall(id="c3", name="patch", arguments='{"input":"*** Begin"}'),
    )
    backend = ScriptedBackend(Chunk("", thinking="hm"), Chunk("", tool_calls=calls), END)
    tools: Any = [
        WEATHER,
        {
            "type": "namespace",
            "name": "files",
            "description": "files",
            "tools": [{"type": "function", "name": "read"}],
        },
        {"type": "custom", "name": "patch", "description": "d", "format": {"type": "text"}},
        {"type": "web_search"},
    ]
    async with client_of(node_factory, backend) as (client, _):
        raw = await client.responses.with_raw_response.create(model="m", input="?", tools=tools)
        assert raw.headers["x-aitorrent-ignored"] == "tools.web_search"
        first = raw.parse()
        assert [tool.name for tool in backend.requests[-1].tools] == [
            "weather",
            "files.read",
            "patch",
        ]
        _, weather, read, patch = (item.model_dump() for item in first.output)
        assert (weather["name"], weather["arguments"]) == ("weather", '{"at":"B"}')
        assert (read["type"], read["name"], read["namespace"]) == ("function_call", "read", "files")
        assert (patch["type"], patch["input"]) == ("custom_tool_call", "*** Begin")

        results: list[Any] = [
            {"type": "function_call_output", "call_id": "c1", "output": "sun"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "a b"}],
            },
            {"type": "custom_tool_call_output", "call_id": "c3", "output": "ok"},
        ]
        said: Any = [item.model_dump(exclude_none=True) for item in first.output]
        backend.script = (Chunk("sunny"), END)
        second = await client.responses.create(
            model="m", input=[{"role": "user", "content": "?"}, *said, *results], tools=tools
        )
        assert second.output_text == "sunny"
        turns = backend.requests[-1].messages or ()
        assert [turn.role for turn in turns] == ["user", "assistant", "tool", "tool", "tool"]
        assert [(c.id, c.name) for c in turns[1].tool_calls] == [
            ("c1", "weather"),
            ("c2", "files.read"),
            ("c3", "patch"),
        ]
        assert turns[1].tool_calls[2].arguments == '{"input": "*** Begin"}'
        assert [(t.tool_call_id, t.content) for t in turns[2:]] == [
            ("c1", "sun"),
            ("c2", "a b"),
            ("c3", "ok"),
        ]


@pytest.mark.parametrize("stream", [False, True])
async def test_errors_raise_what_clients_expect(node_factory: NodeFactory, stream: bool) -> None:
    long = InvalidParams("the prompt has 9 tokens", prompt_tokens=9, context=8)
    backend = FakeBackend("f", words=(), fails=long)
    async with client_of(node_factory, backend) as (client, _):

        async def ask(model: str = "m", **fields: Any) -> Any:
            made: Any = await client.responses.create(
                model=model, input="?", stream=stream, **fields
            )
            return [event async for event in made] if stream else made

        with pytest.raises(openai.BadRequestError) as too_long:
            await ask()
        assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "input")
        with pytest.raises(openai.BadRequestError) as gone:
            await ask(previous_response_id="resp_1")
        assert gone.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError) as missing:
            await ask("none")
        assert missing.value.code == "model_not_found"
        backend.fails = Busy("full")
        with pytest.raises(openai.RateLimitError):
            await ask()
        backend.words, backend.fails = ("one",), Unavailable("no peer holds layers 4-8 of m")
        if not stream:
            with pytest.raises(openai.InternalServerError, match="layers 4-8"):
                await ask()
            return
        last = (await ask())[-1]  # too late for a status
        assert (last.type, last.response.status) == ("response.failed", "failed")
        told = last.response.error
        assert (told.code, told.message) == ("server_error", "no peer holds layers 4-8 of m")
