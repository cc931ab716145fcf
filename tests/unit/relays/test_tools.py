"""Tools go to model servers and their calls come back whole; what a server lacks is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aitorrent_ollama.answers import AnswerReader as OllamaReader
from aitorrent_ollama.requests import request_body
from aitorrent_openai.chunks import AnswerReader as OpenaiReader
from aitorrent_openai.requests import chat_body
from aitorrentd.api import GenerateRequest, InvalidParams, ProtocolError

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
    reader = OpenaiReader("s", tools=True)
    for event in (
        piece(0, name="look", arguments=""),
        piece(0, arguments='{"at"'),
        piece(0, arguments=': "x"}'),
        piece(1, name="look", arguments="{}"),
        {"choices": [{"delta": {}, "finish_reason": reason}]},
    ):
        reader.read(event)
    last = reader.finish(said_done=True)
    assert last.reason == ("length" if reason == "length" else "tool_calls")
    assert [(c.id, c.name, c.arguments) for c in last.tool_calls] == [
        ("c0", "look", '{"at": "x"}'),
        ("c1", "look", "{}"),
    ]


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
