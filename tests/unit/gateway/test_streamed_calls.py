"""Calls of tools that arrive in parts, in each dialect: the stream adds up to the whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from aitorrent_gateway.anthropic.shapes import Identity as AnthropicIdentity
from aitorrent_gateway.anthropic.shapes import MessageStream, whole
from aitorrent_gateway.ollama.shapes import Shape
from aitorrent_gateway.openai.responses.events import ResponseEvents
from aitorrent_gateway.openai.responses.shapes import ResponseIdentity
from aitorrent_gateway.openai.responses.tools import OfferedTools, Origin
from aitorrent_gateway.openai.shapes import ChatChoice, Identity
from aitorrentd.api import Chunk
from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import ToolCall

ARGUMENTS = '{"at":"K\\u00f6ln","n":1}'
PIECES = ('{"at"', ':"K\\u00', 'f6ln","n"', ":1}")
A = ToolCall(id="c1", name="look", arguments=ARGUMENTS)
B = ToolCall(id="c2", name="stop", arguments="{}")
END = Chunk("", done=True, reason="tool_calls", prompt_tokens=3, completion_tokens=9)
BEGUN = [
    Chunk("", call_parts=(CallPart("", "c1", "look"),)),
    *(Chunk("", call_parts=(CallPart(piece),)) for piece in PIECES),
]
WRITTEN = [Chunk("I look."), *BEGUN, Chunk("", tool_calls=(A,)), Chunk("", tool_calls=(B,)), END]
AT_ONCE = [Chunk("I look."), Chunk("", tool_calls=(A, B)), END]
CUT = [*BEGUN[:3], Chunk("", done=True, reason="length")]
MALFORMED = ToolCall(id="c1", name="look", arguments='{"at"oops}')
WRONG = [
    *BEGUN[:2],
    Chunk("", call_parts=(CallPart("oops}"),)),
    Chunk("", tool_calls=(MALFORMED,)),
    Chunk("so", done=True, reason="tool_calls"),
]
ANSWERS = {"in parts": WRITTEN, "at once": AT_ONCE, "cut": CUT, "malformed": WRONG}


def events(body: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(event.partition(b"data: ")[2]) for event in body.split(b"\n\n") if b"{" in event
    ]


def chat(chunks: Sequence[Chunk]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(deltas of calls, the whole choice)."""
    identity = Identity("i", 1, "m")
    choice, other = (ChatChoice(identity, 0, with_usage=False) for _ in range(2))
    body = b"".join([*map(choice.piece, chunks), choice.last(chunks[-1])])
    for chunk in chunks:
        other.add(chunk)
    found = [event["choices"][0] for event in events(body)]
    calls = [call for each in found for call in each["delta"].get("tool_calls", [])]
    made = other.whole(chunks[-1])
    assert found[-1]["finish_reason"] == made["finish_reason"]
    return calls, made


def test_chat_begins_a_call_with_its_name_and_goes_on_with_arguments() -> None:
    calls, made = chat(WRITTEN)
    assert calls == [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}},
        *({"index": 0, "function": {"arguments": piece}} for piece in PIECES),
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "stop", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    assert (made["finish_reason"], made["message"]["content"]) == ("tool_calls", "I look.")


@pytest.mark.parametrize("name", ANSWERS)
def test_chat_in_parts_is_the_whole_answer(name: str) -> None:
    deltas, made = chat(ANSWERS[name])
    put: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        index, function = delta.pop("index"), delta["function"]
        if index not in put:
            put[index] = delta
        else:
            assert delta.keys() == {"function"}
            assert function.keys() == {"arguments"}
            put[index]["function"]["arguments"] += function["arguments"]
    assert list(put.values()) == made["message"]["tool_calls"]
    assert made["finish_reason"] == ("length" if name == "cut" else "tool_calls")


def response(
    chunks: Sequence[Chunk], tools: OfferedTools | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    made = ResponseEvents(ResponseIdentity("r", 1, "m", {}), tools or OfferedTools())
    body = b"".join([made.begin(), *map(made.piece, chunks)])
    end, shown = made.end(chunks[-1], 2)
    return events(body + end), shown


@pytest.mark.parametrize("name", ANSWERS)
def test_response_in_parts_is_the_whole_answer(name: str) -> None:
    found, shown = response(ANSWERS[name])
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    calls = [item for item in shown["output"] if item["type"] == "function_call"]
    for call in calls:
        of_call = [e for e in found if e.get("item_id") == call["id"]]
        *deltas, done = of_call
        assert {e["type"] for e in deltas} == {"response.function_call_arguments.delta"}
        assert "".join(e["delta"] for e in deltas) == done["arguments"] == call["arguments"]
        assert done["type"] == "response.function_call_arguments.done"
    added = [e["item"] for e in found if e["type"] == "response.output_item.added"]
    done_items = [e["item"] for e in found if e["type"] == "response.output_item.done"]
    assert [item["id"] for item in added] == [item["id"] for item in shown["output"]]
    assert done_items == shown["output"]
    assert [call["status"] for call in calls] == (
        ["incomplete"] if name == "cut" else ["completed"] * len(calls)
    )
    if name == "in parts":
        assert [e["delta"] for e in found if "arguments.delta" in e["type"]] == [*PIECES, "{}"]


def test_custom_tool_gets_its_text_when_it_is_known() -> None:
    tools = OfferedTools(origins={"look": Origin("look", None, is_custom=True)})
    call = ToolCall(id="c1", name="look", arguments='{"input": "a\\nb"}')
    chunks = [
        Chunk("", call_parts=(CallPart('{"input": "a', "c1", "look"),)),
        Chunk("", call_parts=(CallPart('\\nb"}'),)),
        Chunk("", tool_calls=(call,)),
        END,
    ]
    found, shown = response(chunks, tools)
    (item,) = shown["output"]
    assert (item["type"], item["input"]) == ("custom_tool_call", "a\nb")
    assert [e["delta"] for e in found if e["type"].endswith("_input.delta")] == ["a\nb"]


def message(chunks: Sequence[Chunk]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    identity = AnthropicIdentity("msg_1", "m")
    stream = MessageStream(identity, shows_thinking=True)
    body = b"".join([stream.first(), *map(stream.piece, chunks), stream.last(chunks[-1])])
    return events(body), whole(identity, chunks, shows_thinking=True)


@pytest.mark.parametrize("name", ANSWERS)
def test_message_in_parts_is_the_whole_answer(name: str) -> None:
    found, made = message(ANSWERS[name])
    blocks: list[dict[str, Any]] = []
    arguments: dict[int, str] = {}
    open_index: int | None = None
    for event in found:
        if event["type"] == "content_block_start":
            assert open_index is None
            assert event["index"] == len(blocks)
            open_index = event["index"]
            blocks.append(event["content_block"])
            if blocks[-1]["type"] == "tool_use":
                assert blocks[-1]["input"] == {}
                arguments[open_index] = ""
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_index
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                arguments[event["index"]] += delta["partial_json"]
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_index
            open_index = None
    assert open_index is None
    assert [(b["type"], b.get("id")) for b in blocks] == [
        (b["type"], b.get("id")) for b in made["content"]
    ]
    inputs = [b["input"] for b in made["content"] if b["type"] == "tool_use"]
    if name == "cut":
        assert (list(arguments.values()), inputs) == (['{"at":"K\\u00'], [{}])
    elif name == "malformed":
        assert list(arguments.values()) == [MALFORMED.arguments]
        assert inputs == [{"INVALID_JSON": MALFORMED.arguments}]
    else:
        assert [json.loads(text) for text in arguments.values()] == inputs
    reason = "max_tokens" if name == "cut" else "tool_use"
    assert made["stop_reason"] == reason
    assert [e["delta"]["stop_reason"] for e in found if e["type"] == "message_delta"] == [reason]


def test_message_passes_on_each_part() -> None:
    found, _ = message(WRITTEN)
    deltas = [e["delta"] for e in found if e["type"] == "content_block_delta"]
    texts = [d["partial_json"] for d in deltas if d["type"] == "input_json_delta"]
    assert texts == [*PIECES, "{}"]


def test_ollamas_clients_get_whole_calls() -> None:
    shape = Shape("m", is_chat=True)
    lines = b"".join(shape.piece(chunk, "now") for chunk in WRITTEN).splitlines()
    said = [json.loads(line)["message"] for line in lines]
    calls = [call["function"] for each in said for call in each.get("tool_calls", [])]
    assert [call["name"] for call in calls] == ["look", "stop"]
    assert calls[0]["arguments"] == json.loads(ARGUMENTS)
    assert b"".join(shape.piece(chunk, "now") for chunk in CUT) == b""
