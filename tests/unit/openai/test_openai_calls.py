"""Calls of tools from an OpenAI-compatible server are passed on in the parts in which they come."""

from __future__ import annotations

import json
import logging
from typing import Any

from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import ServerConfig
from aitorrentd.api import GenerateRequest
from aitorrentd.api.models.call_parts import CallPart
from tests.support.clocks import FakeClock
from tests.support.servers.relays import closed_after, saying

REQUEST = GenerateRequest.model_validate(
    {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "look"}]}
)


def event(reason: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def call(index: int, arguments: str, **fields: Any) -> bytes:
    name = {"name": "look"} if fields else {}
    one = {"index": index, "function": {"arguments": arguments, **name}, **fields}
    return event(tool_calls=[one])


async def test_parts_arrive_one_by_one_between_text_and_the_end() -> None:
    body = b"".join(
        (
            event(content="I look."),
            call(0, "", id="a"),
            call(0, '{"at": '),
            call(0, '"x"}'),
            call(1, "{}", id="b"),
            event("tool_calls"),
            b"data: [DONE]\n\n",
        )
    )
    async with saying(200, body) as server:
        config = ServerConfig(name="test", url=server.url)
        backend = OpenaiBackend(config, clock=FakeClock(), log=logging.getLogger("test.openai"))
        async with closed_after(backend):
            chunks = [chunk async for chunk in backend.generate(REQUEST)]
    shown = [chunk.text or chunk.tool_calls or chunk.call_parts for chunk in chunks[:-1]]
    assert shown[:4] == [
        "I look.",
        (CallPart("", "a", "look"),),
        (CallPart('{"at": '),),
        (CallPart('"x"}'),),
    ]
    calls = [each for chunk in chunks for each in chunk.tool_calls]
    assert [(c.id, c.arguments) for c in calls] == [("a", '{"at": "x"}'), ("b", "{}")]
    assert chunks[-1].reason == "tool_calls"
