"""What users reported of other servers that speak OpenAI's dialect: named by repository and
number."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrentd.api import Chunk
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.raw_http import Answer, exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.nodes import NodeFactory

HELLO = [{"role": "user", "content": "hello"}]
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
END = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=2)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
Told = tuple[str, ScriptedBackend]


@pytest.fixture
async def told(node_factory: NodeFactory) -> Told:
    """The address of a node, and the backend that answers there."""
    backend = ScriptedBackend(Chunk("hello"), END)
    _, address = await gateway_node(node_factory, backend)
    return address, backend


async def sent(address: str, path: str, **fields: Any) -> Answer:
    body = json.dumps({"model": "m", **fields}).encode()
    head = {"Content-Type": "application/json"}
    return await exchange(address, request("POST", f"/v1/{path}", head, body))


def events(answer: Answer) -> list[dict[str, Any]]:
    """The JSON of a stream's events."""
    lines = answer.body.decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def test_fields_that_others_ignored_or_refused(told: Told) -> None:
    """By the number of the report: what the model is asked for."""
    address, backend = told
    reports: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "llama-cpp-python 1907, ik_llama.cpp 2321": (
            {"max_completion_tokens": 7},
            {"max_tokens": 7},
        ),
        "voideditor/void 128": (
            {"max_tokens": None, "max_completion_tokens": 8},
            {"max_tokens": 8},
        ),
        "fast-agent 781": ({"tools": [], "tool_choice": "none"}, {}),
        "camel 1585": ({"tool_choice": None}, {}),
        "llama.cpp 5936": ({"stop": "", "logit_bias": {}}, {}),
    }
    for report, (fields, params) in reports.items():
        answer = await sent(address, "chat/completions", messages=HELLO, **fields)
        assert (report, answer.status) == (report, 200), answer.body
        asked = backend.requests[-1]
        set_ones = asked.params.model_dump(exclude_none=True, exclude_defaults=True)
        assert (report, set_ones, asked.tools) == (report, params, ())


async def test_turns_that_others_refused(told: Told) -> None:
    """vllm 12937: an empty list of calls; ai-sdk: a null beside calls; claude-code 52057 and
    autogen 1521: an empty text; extended_openai_conversation 203: a turn without content beside
    calls."""
    address, backend = told
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": "a", "tool_calls": []},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": ""}]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]
    for turn in turns:
        answer = await sent(address, "chat/completions", messages=[*HELLO, turn])
        assert (turn, answer.status) == (turn, 200), answer.body
        read = (backend.requests[-1].messages or ())[-1]
        assert (read.role, read.content) == (turn["role"], turn.get("content") or "") or (
            turn["role"],
            read.content,
        ) == ("user", "")


async def test_a_call_that_must_be_made_without_tools_is_refused_before_the_stream(
    told: Told,
) -> None:
    """vllm 21052, Rapid-MLX 744: the stream began, and then failed, or the model just talked."""
    address, backend = told
    empty: tuple[dict[str, Any], ...] = ({}, {"tools": []})
    asks: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": HELLO},
        "responses": {"input": "a"},
    }
    for path, question in asks.items():
        for tools in empty:
            for stream in (True, False):
                fields = {**question, **tools, "stream": stream, "tool_choice": "required"}
                answer = await sent(address, path, **fields)
                assert (answer.status, answer.error["param"]) == (400, "tool_choice")
                assert answer.headers["content-type"] == "application/json"
    assert backend.requests == []


async def test_usage_comes_only_if_asked_for(told: Told) -> None:
    """vllm 36379: also with empty options; litellm 25410: then in a last event without choices;
    vllm 16348, llama.cpp 17034: null, or absent, in the others."""
    address, _ = told
    for options, shown in (({}, 0), ({"include_usage": False}, 0), ({"include_usage": True}, 1)):
        fields = {"messages": HELLO, "stream": True, "stream_options": options}
        found = events(await sent(address, "chat/completions", **fields))
        assert sum(bool(event.get("usage")) for event in found) == shown, options
        if shown:
            assert (found[-1]["choices"], found[-1]["usage"]["total_tokens"]) == ([], 5)
            assert all(event["usage"] is None and event["choices"] for event in found[:-1])


async def test_every_event_has_what_strict_readers_want(told: Told) -> None:
    """LocalAI 1194, LibreChat 5563, liteLLM-proxy 19: a reason in each choice, null before the
    last; async-openai, sttp-ai 243: an index, a role once, and one id."""
    address, backend = told
    calls = (ToolCall(id="c", name="f", arguments='{"a": "}"}'), ToolCall(id="d", name="f"))
    backend.script = (Chunk("a"), Chunk("b"), Chunk("", tool_calls=calls), END)
    fields = {"messages": HELLO, "stream": True, "tools": [TOOL]}
    found = events(await sent(address, "chat/completions", **fields))
    assert len({event["id"] for event in found}) == 1
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    choices = [event["choices"][0] for event in found]
    assert {choice["index"] for choice in choices} == {0}
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert [choice["delta"].get("role") for choice in choices] == [
        "assistant",
        *[None] * (len(choices) - 1),
    ]
    pieces = [each for choice in choices for each in choice["delta"].get("tool_calls", [])]
    for index, call in enumerate(calls):
        own = [piece for piece in pieces if piece["index"] == index]
        assert own[0]["id"] == call.id
        assert "".join(piece["function"]["arguments"] for piece in own) == call.arguments


async def test_whole_answers_have_what_strict_readers_want(told: Told) -> None:
    """endpoints 133: `refusal`; sttp-ai 243: `logprobs`; docling 1647: a reason; spring-ai: null
    content beside calls."""
    address, backend = told
    whole = json.loads((await sent(address, "chat/completions", messages=HELLO)).body)
    (choice,) = whole["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "hello", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    backend.script = (Chunk("", tool_calls=(ToolCall(id="c", name="f"),)), END)
    fields = {"messages": HELLO, "tools": [TOOL]}
    (called,) = json.loads((await sent(address, "chat/completions", **fields)).body)["choices"]
    assert (called["message"]["content"], called["finish_reason"]) == (None, "tool_calls")


async def test_responses_as_strict_readers_want_them(told: Told) -> None:
    """new-api 7087: items begin with empty lists; cindy 4509: a part begins with a text; ogx 4990:
    `logprobs` is a list; rig 1021: `tools` is there."""
    address, backend = told
    backend.script = (Chunk("", thinking="hm"), Chunk("hello"), END)
    found = events(await sent(address, "responses", input="a", stream=True))
    added = [event["item"] for event in found if event["type"] == "response.output_item.added"]
    assert [(item["type"], item.get("summary"), item.get("content")) for item in added] == [
        ("reasoning", [], added[0].get("content")),
        ("message", None, []),
    ]
    parts = [event["part"] for event in found if event["type"] == "response.content_part.added"]
    assert parts[-1] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    done = found[-1]["response"]
    assert (done["status"], done["tools"]) == ("completed", [])
    assert done["output"][-1]["content"][0]["logprobs"] == []


async def test_items_that_lack_what_only_openai_adds(told: Told) -> None:
    """codex 12230, vllm 41355: no ids, states or annotations; codex 11834: thoughts with null;
    llm-simple-router 149: no type."""
    address, backend = told
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
        {"type": "message", **said},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
        {"role": "user", "content": [{"type": "input_text", "text": "d"}]},
    ]
    answer = await sent(address, "responses", input=items)
    assert answer.status == 200, answer.body
    turns = backend.requests[-1].messages or ()
    assert [(turn.role, turn.content) for turn in turns] == [
        ("user", "a"),
        ("assistant", "b"),
        ("tool", "r"),
        ("user", "d"),
    ]
    assert [call.name for call in turns[1].tool_calls] == ["f"]
    assert "x-aitorrent-ignored" not in answer.headers


@pytest.mark.parametrize("origin", ["http://localhost:5173", "https://chat.example"])
async def test_a_page_that_may_not_call_learns_which_setting_allows_it(
    told: Told, origin: str
) -> None:
    """LocalAI 710, llama-swap 42, lmstudio 443: 404, 405, or a word about `messages`."""
    address, _ = told
    head = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = await exchange(address, request("OPTIONS", "/v1/chat/completions", head))
    assert answer.status == 403
    assert "plugins.http.origins" in answer.error["message"]
    assert "access-control-allow-origin" not in answer.headers
