"""Requests to /v1/responses: items as turns, tools of each kind, what is refused with its name."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_gateway.openai.requests import chat
from aitorrent_gateway.openai.responses.requests import response
from aitorrentd.api import InvalidParams

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
SPACE = {"type": "namespace", "name": "s", "description": "d", "tools": [TOOL]}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def turns(*items: Any, **fields: Any) -> list[tuple[str, str]]:
    """Role and text of the turns that a request amounts to."""
    asked = response({"model": "m", "input": list(items), **fields}).request
    return [(turn.role, turn.content) for turn in asked.messages or ()]


def text(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


def test_instructions_are_one_turn() -> None:
    """llama.cpp 20079, vllm 43590, dynamo 10206: Codex sends several, templates take one, first."""
    part = {"type": "input_text", "text": "two"}
    found = turns(
        text("developer", [part]),
        text("system", "three"),
        text("user", "hi"),
        text("developer", "later"),
        instructions="one",
    )
    assert found == [("system", "one\n\ntwo\n\nthree\n\nlater"), ("user", "hi")]
    assert turns(text("developer", "hi"), instructions="be brief") == [("system", "be brief\n\nhi")]
    assert turns(text("user", "hi"), text("developer", "be brief")) == [
        ("system", "be brief"),
        ("user", "hi"),
    ]


def test_items_of_an_earlier_answer_are_its_turn() -> None:
    said = {"type": "output_text", "text": "let me", "annotations": [], "logprobs": []}
    found = response(
        {
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                text("assistant", [said, {"type": "refusal", "refusal": "!"}], id="msg_1"),
                {**CALL, "id": "fc_1", "status": "completed"},
                {**CALL, "call_id": "d", "namespace": "s"},
                # codex 7073: an unknown action made every further turn fail
                {"type": "web_search_call", "id": "ws_1", "action": {"type": "other"}},
                {"type": "function_call_output", "call_id": "c", "output": "1"},
            ]
        }
    )
    _, answer, result = found.request.messages or ()
    assert (answer.content, [c.name for c in answer.tool_calls]) == ("let me!", ["f", "s.f"])
    assert (result.role, result.tool_call_id) == ("tool", "c")
    assert found.headers == {"x-aitorrent-ignored": "input.web_search_call"}


@pytest.mark.parametrize("said", [None, "", []])
def test_result_of_a_tool_that_says_nothing(said: Any) -> None:
    """mcp-agent 328: without the result, the call has no answer."""
    result = {"type": "function_call_output", "call_id": "c", "output": said}
    assert turns(CALL, result) == [("assistant", ""), ("tool", "")]
    chat_turns = [
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "c", "content": said},
    ]
    request = chat({"model": "m", "messages": chat_turns}).request
    assert [(t.role, t.content) for t in request.messages or ()] == [
        ("assistant", ""),
        ("tool", ""),
    ]


@pytest.mark.parametrize(
    ("choice", "names", "picked"),
    [
        ("required", ["f", "s.f"], "required"),
        ({"type": "function", "name": "f"}, ["f", "s.f"], "f"),
        ({"type": "function", "name": "f", "namespace": "s"}, ["f", "s.f"], "s.f"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            ["f"],
            "auto",
        ),
    ],
)
def test_choice_of_tools(choice: Any, names: list[str], picked: str) -> None:
    request = response({"input": "a", "tools": [TOOL, SPACE], "tool_choice": choice}).request
    assert [tool.name for tool in request.tools] == names
    assert getattr(request.tool_choice, "name", request.tool_choice) == picked


def test_tools_that_the_conversation_adds() -> None:
    """10/chatgpt-codex-proxy 9: Codex begins its input with an item that has tools."""
    item = {"type": "additional_tools", "role": "developer", "id": "at_1", "tools": [SPACE]}
    asked = response({"input": [item, {"role": "user", "content": "a"}], "tools": [TOOL]})
    assert [tool.name for tool in asked.request.tools] == ["f", "s.f"]
    assert [turn.content for turn in asked.request.messages or ()] == ["a"]


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"max_output_tokens": 5, "temperature": 0}, {"max_tokens": 5, "temperature": 0.0}),
        ({"reasoning": {"effort": "minimal", "summary": "auto"}}, {"think": "low"}),
        ({"reasoning": {"effort": None}, "text": {"verbosity": "low"}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"format": "json"}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"a": 1}}}},
            {"format": {"a": 1}},
        ),
        ({"include": ["reasoning.encrypted_content"], "top_logprobs": 0}, {}),
        ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"stream_options": {"include_obfuscation": False}, "truncation": "auto"}, {}),
    ],
)
def test_parameters(fields: dict[str, Any], params: dict[str, Any]) -> None:
    request = response({"input": "a", **fields}).request
    assert request.params.model_dump(exclude_unset=True) == params


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": 1}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"type": "message", "content": "a"}]}, "input[0].role"),
        ({"input": [text("root", "a")]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "additional_tools", "tools": {}}]}, "input[0].tools"),
        ({"input": [text("user", [{"type": "input_file"}])]}, "input[0].content"),
        ({"input": [text("user", 1)]}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}], "instructions": "be brief"}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{**CALL, "name": "a b"}]}, "input"),
        (
            {"input": [text("user", [{"type": "input_image", "image_url": "http://localhost/"}])]},
            "input[0].content",
        ),
        ({"instructions": []}, "instructions"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"reasoning": "low"}, "reasoning"),
        ({"reasoning": {"effort": "vast"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"include": "all"}, "include"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "namespace", "name": "s"}]}, "tools[0]"),
        ({"tools": [{**SPACE, "tools": [SPACE]}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_refused_with_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParams, match=".") as caught:
        response({"model": "m", "input": "a", **fields})
    assert caught.value.data["param"] == param
    assert len(caught.value.message) < 500
