"""Calls of tools between peers: in parts, whole from older nodes, and damaged by hostile ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from aitorrent_inference.peers import generate_protocol as wire
from aitorrent_inference.peers.call_lines import CallReader
from aitorrentd.api import AitorrentError, Chunk, ProtocolError
from aitorrentd.api.models.call_parts import CallPart, CallSteps
from aitorrentd.api.models.tools import MAX_ARGUMENTS, ToolCall

A = ToolCall(id="a", name="look", arguments='{"at": "x"}')
B = ToolCall(id="b", name="look", arguments="{}")
END = Chunk("", done=True, reason="tool_calls")
WRITTEN = [
    Chunk("I look."),
    Chunk("", call_parts=(CallPart('{"at"', "a", "look"),)),
    Chunk("", call_parts=(CallPart(': "x'),)),
    Chunk("", call_parts=(CallPart('"}'),)),
    Chunk("", tool_calls=(A,)),
    Chunk("Again."),
    Chunk("", tool_calls=(B,)),
    END,
]


def lines(chunks: Sequence[Chunk]) -> list[bytes]:
    """As a node sends them."""
    steps, sent = CallSteps(), []
    calls = tuple(call for chunk in chunks for call in chunk.tool_calls)
    for chunk in chunks:
        found = [step for each in steps.around(chunk) for step in each]
        if chunk.text or found:
            sent.append(wire.text_line("m", 0.0, chunk, found))
    last = Chunk("", done=True, reason=chunks[-1].reason, tool_calls=calls)
    return [*sent, wire.last_line("m", 0.0, last, wire.Timing(3, 2, 1))]


def read(sent: Sequence[bytes]) -> list[Chunk]:
    """As a node receives them."""
    reader, found = CallReader(), []
    for line in sent:
        chunk = wire.decode_reply(line, reader)
        assert not isinstance(chunk, AitorrentError)
        found.append(chunk)
    return found


def shown(chunks: Sequence[Chunk]) -> list[object]:
    """What a caller sees, in its order."""
    steps, found = CallSteps(), list[object]()
    for chunk in chunks:
        before, after = steps.around(chunk)
        each = [*before, chunk.text, *after]
        found += [e for e in each if e]
    return found


def test_calls_in_parts_arrive_in_parts() -> None:
    found = read(lines(WRITTEN))
    parts = [part for chunk in found for part in chunk.call_parts]
    assert parts == [part for chunk in WRITTEN for part in chunk.call_parts]
    assert [call for chunk in found for call in chunk.tool_calls] == [A, B]
    assert shown(found) == shown(WRITTEN)
    assert found[-1].reason == "tool_calls"


def test_call_that_is_cut_off_stays_one() -> None:
    found = read(lines([*WRITTEN[:3], Chunk("", done=True, reason="length")]))
    assert [call for chunk in found for call in chunk.tool_calls] == []
    assert [part.arguments for chunk in found for part in chunk.call_parts] == ['{"at"', ': "x']
    assert found[-1].reason == "length"


def test_node_that_knows_no_parts_reads_the_last_line() -> None:
    for line in lines(WRITTEN)[:-1]:
        assert json.loads(line)["done"] is False
    last = json.loads(lines(WRITTEN)[-1])
    assert [call["function"]["arguments"] for call in last["tool_calls"]] == [
        A.arguments,
        B.arguments,
    ]
    assert "tool_call_parts" not in last


def test_node_that_sends_no_parts_is_understood() -> None:
    last = Chunk("", done=True, reason="tool_calls", tool_calls=(A, B))
    found = read([wire.text_line("m", 0.0, Chunk("I look.")), *lines([last])[-1:]])
    assert found[-1].tool_calls == (A, B)


def parts(*values: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"response": "", "tool_call_parts": list(values), **fields}).encode()


BEGIN: dict[str, Any] = {"index": 0, "id": "a", "name": "look", "arguments": "{"}
HOSTILE: dict[str, list[bytes]] = {
    "goes on with nothing": [parts({"index": 0, "arguments": "{"})],
    "begins twice": [parts(BEGIN), parts(BEGIN)],
    "wrong number": [parts({**BEGIN, "index": 1})],
    "number of the next": [parts(BEGIN), parts({"index": 1, "arguments": "}"})],
    "bad name": [parts({**BEGIN, "name": "a b\n"})],
    "text inside": [parts(BEGIN), parts(response="hi")],
    "too many": [parts({**BEGIN, "index": 128})],
    "negative": [parts({**BEGIN, "index": -1})],
    "no object": [b'{"response":"","tool_call_parts":[7]}'],
    "too long": [
        parts(BEGIN),
        *[parts({"index": 0, "arguments": "x" * (MAX_ARGUMENTS // 4)})] * 4,
    ],
    "half a character": [
        b'{"response":"","tool_call_parts":[{"index":0,"name":"f","arguments":"\\ud800"}]}'
    ],
    "other calls at the end": [
        parts({**BEGIN, "arguments": "{}", "ends": True}),
        json.dumps({"done": True, "tool_calls": [{"id": "z", "name": "look"}]}).encode(),
    ],
    "an open call that ends elsewhere": [
        parts(BEGIN),
        json.dumps({"done": True, "tool_calls": [{"id": "a", "name": "look"}]}).encode(),
    ],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_parts_are_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="bad answer line"):
        read(HOSTILE[name])
