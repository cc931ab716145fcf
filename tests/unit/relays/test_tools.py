"""Tools go to model servers and their calls come back whole; what a server lacks is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrent_ollama.answers import AnswerReader as OllamaReader
from aitorrent_ollama.requests import request_body
from aitorrent_openai.chunks import AnswerReader as OpenaiReader
from aitorrent_openai.requests import chat_body
from aitorrentd.api import Chunk, GenerateRequest, InvalidParams, ProtocolError
from aitorrentd.api.models.call_parts import CallPart, CallSteps

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "looks",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}


def asked(**fields: Any) -> GenerateRequest:
    turns = [
        {"role": "user", "content": "see?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "a tree", "tool_call_id": "c1", "tool_name": "look"},
    ]
    return GenerateRequest.model_validate({"messages": turns, "tools": [TOOL]} | fields)


def test_openai_gets_tools_choice_and_earlier_calls() -> None:
    named = {"type": "function", "function": {"name": "look"}}
    body = chat_body(asked(tool_choice=named, parallel_tool_calls=False))
    assert body["tools"] == [TOOL]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == (named, False)
    assert body["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert body["messages"][2] == {"role": "tool", "content": "a tree", "tool_call_id": "c1"}
    assert chat_body(asked(tool_choice="required"))["tool_choice"] == "required"


def test_ollama_gets_tools_and_refuses_a_choice_that_it_would_drop() -> None:
    _, body = request_body(asked(tool_choice="auto"), None)
    assert body["tools"] == [TOOL]
    [call] = body["messages"][1]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": {"at": "x"}}
    assert body["messages"][2]["tool_name"] == "look"
    assert "tools" not in request_body(asked(tool_choice="none"), None)[1]
    for name, value in (("tool_choice", "required"), ("parallel_tool_calls", False)):
        with pytest.raises(InvalidParams, match=f"Ollama cannot apply {name};") as e:
            request_body(asked(**{name: value}), None)
        assert e.value.data == {"params": [name]}


def piece(index: int, **function: str) -> dict[str, Any]:
    call: dict[str, Any] = {"index": index, "function": function}
    if "name" in function:
        call |= {"id": f"c{index}", "type": "function"}
    return {"choices": [{"delta": {"tool_calls": [call]}}]}


@pytest.mark.parametrize("reason", ["tool_calls", "stop", "length"])
def test_calls_in_pieces_are_put_together(reason: str) -> None:
    chunks = read(
        piece(0, name="look", arguments=""),
        piece(0, arguments='{"at"'),
        piece(0, arguments=': "x"}'),
        piece(1, name="look", arguments="{}"),
        {"choices": [{"delta": {}, "finish_reason": reason}]},
    )
    assert chunks[-1].reason == ("length" if reason == "length" else "tool_calls")
    assert calls_in(chunks) == [("c0", "look", '{"at": "x"}'), ("c1", "look", "{}")]
    # And passed on as they come.
    assert [part for chunk in chunks for part in chunk.call_parts] == [
        CallPart("", "c0", "look"),
        CallPart('{"at"'),
        CallPart(': "x"}'),
        CallPart("", "c1", "look"),
    ]


def read(*events: dict[str, Any]) -> list[Chunk]:
    """The chunks of a server's answer, which fit together."""
    reader, steps = OpenaiReader("s", tools=True), CallSteps()
    chunks = [*map(reader.read, events)]
    chunks.append(reader.finish(said_done=True))
    for chunk in chunks:
        steps.around(chunk)
        assert not (steps.is_open and chunk.text)
    assert steps.cut() is None
    return chunks


def calls_in(chunks: list[Chunk]) -> list[tuple[str, str, str]]:
    return [(c.id, c.name, c.arguments) for chunk in chunks for c in chunk.tool_calls]


def delta(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"tool_calls": list(calls), **fields}}]}


def part(arguments: Any, name: str | None = None, **fields: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"function": {"arguments": arguments, **named}, **fields}


X, Y = '{"at": "x"}', '{"at": "y"}'
TWO = [("a", "look", X), ("b", "look", Y)]
REPORTED: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str, str]]]] = {
    # LibreChat-AI/agents#260, vercel/ai#14277, ollama/ollama#15457
    "all calls have the number 0": (
        [delta(part(X, "look", id="a", index=0)), delta(part(Y, "look", id="b", index=0))],
        TWO,
    ),
    # vercel/ai#18440: nor an id
    "all calls have the number 0 and no id": (
        [delta(part(X, "look", index=0)), delta(part(Y, "look", index=0))],
        [("", "look", X), ("", "look", Y)],
    ),
    # jin-bo/agentao#117
    "no numbers": (
        [
            delta(part('{"at": ', "look", id="a")),
            delta(part('"x"}')),
            delta(part('{"at": ', "look", id="b")),
            delta(part('"y"}')),
        ],
        TWO,
    ),
    # dirac-run/dirac#215: numbers of pieces, without an id or a name
    "each piece has a number of its own": (
        [
            delta(part("", "look", id="a", index=0)),
            delta(part('{"at": ', index=1)),
            delta(part('"x"}', index=2)),
        ],
        [("a", "look", X)],
    ),
    # InternLM/lmdeploy#3412: as SGLang sent them
    "the id and the name in each piece": (
        [
            delta(part('{"at": ', "look", id="a", index=0)),
            delta(part('"x"}', "look", id="a", index=0)),
        ],
        [("a", "look", X)],
    ),
    # continuedev/continue#13278, maximhq/bifrost#1829
    "pieces of two calls in turn": (
        [
            delta(part("", "look", id="a", index=0), part("", "look", id="b", index=1)),
            delta(part('{"at": ', index=0)),
            delta(part('{"at": ', index=1)),
            delta(part('"x"}', index=0)),
            delta(part('"y"}', index=1)),
        ],
        TWO,
    ),
    # BerriAI/litellm#4537, microsoft/autogen#7549, ogx-ai/ogx#5462
    "an empty object before the arguments": (
        [delta(part("{}", "look", id="a", index=0)), delta(part(X, index=0))],
        [("a", "look", X)],
    ),
    # pydantic/pydantic-ai#1802, sigoden/aichat#1217
    "arguments that are null": (
        [delta(part(None, "look", id="a", index=0)), delta(part(None, index=0))],
        [("a", "look", "{}")],
    ),
    # openai/codex#7517
    "single characters, with an empty name and id": (
        [
            delta(part("", "look", id="a", index=0)),
            *(delta(part(char, "", id="", index=0)) for char in X),
        ],
        [("a", "look", X)],
    ),
    "a text before the call, and one inside it": (
        [
            delta(content="I look."),
            delta(part('{"at": ', "look", id="a", index=0)),
            delta(part('"x"}', index=0), content="\n"),
            delta(content=" Done."),
        ],
        [("a", "look", X)],
    ),
    # kekzl/imp#1554: halves of a character in two pieces
    "a character cut in its middle": (
        [
            delta(part('{"at": "\ud83d', "look", id="a", index=0)),
            delta(part('\ude00"}', index=0)),
        ],
        [("a", "look", '{"at": "😀"}')],
    ),
}


@pytest.mark.parametrize("name", REPORTED)
def test_calls_as_servers_send_them_arrive_as_the_model_made_them(name: str) -> None:
    events, expected = REPORTED[name]
    chunks = read(*events, {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    found = calls_in(chunks)
    assert all(ident for ident, _, _ in found)
    assert len({ident for ident, _, _ in found}) == len(found)
    assert [
        (ident if wanted[0] else "", name, arguments)
        for (ident, name, arguments), wanted in zip(found, expected, strict=True)
    ] == expected
    said = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert "".join(chunk.text for chunk in chunks) == said
    assert chunks[-1].reason == "tool_calls"
    assert any(chunk.call_parts for chunk in chunks)


def test_whole_calls_of_ollama_get_ids() -> None:
    reader = OllamaReader(None, tools=True)
    for at in ("x", "y"):
        call = {"function": {"name": "look", "arguments": {"at": at}}}
        reader.read({"message": {"content": "", "tool_calls": [call]}})
    last = reader.read({"message": {"content": ""}, "done": True, "done_reason": "stop"})
    assert (last.reason, last.warning) == ("tool_calls", "")
    assert [json.loads(c.arguments)["at"] for c in last.tool_calls] == ["x", "y"]
    assert len({c.id for c in last.tool_calls}) == 2


def test_answer_without_a_call_ends_as_usual() -> None:
    reader = OpenaiReader("s", tools=True)
    reader.read({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})
    last = reader.finish(said_done=True)
    assert (last.reason, last.tool_calls) == ("stop", ())


def test_wrong_or_endless_calls_are_an_error() -> None:
    reader = OpenaiReader("s", tools=True)
    reader.read(piece(0, name="not a name!", arguments="{}"))
    with pytest.raises(ProtocolError, match="s sent a tool call with a bad name"):
        reader.finish(said_done=True)
    with pytest.raises(ProtocolError, match="too many or too long tool calls"):
        for _ in range(20):
            reader.read(piece(1, arguments="x" * 100_000))
