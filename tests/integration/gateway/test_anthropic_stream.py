"""The Anthropic API byte by byte: shape of streams, errors, and clients that leave."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from aitorrent_gateway.core import answers
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    InvalidParams,
    NotFound,
    ShuttingDown,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.models.features import FEATURES
from aitorrentd.api.models.tools import ToolCall
from tests.support.clients.raw_http import Answer, connection, exchange, request
from tests.support.gateway_nodes import ScriptedBackend, gateway_node
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, wait_for

HELLO = [{"role": "user", "content": "hello"}]
JSON = {"Content-Type": "application/json", "anthropic-version": "2026-10-21"}
END = Chunk("", done=True, reason="stop", prompt_tokens=3, completion_tokens=2)


def post(path: str = "/v1/messages", **fields: Any) -> bytes:
    body = {"model": "m", "max_tokens": 9, "messages": HELLO, **fields}
    return request("POST", path, JSON, json.dumps(body).encode())


def events(answer: Answer) -> list[Any]:
    """The data of each event, whose name must be its type."""
    assert answer.body.endswith(b"\n\n")
    found = []
    for event in answer.body.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        found.append(value)
    return found


class Scripted(FakeBackend):
    """Answers with these chunks."""

    def __init__(self, *chunks: Chunk) -> None:
        super().__init__("f")
        self._chunks = chunks

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        for chunk in self._chunks:
            yield chunk


async def test_stream_has_exactly_this_shape(node_factory: NodeFactory) -> None:
    chunks = (Chunk("Hé"), Chunk(' "\n\u2028'), Chunk("!", done=True, reason="length"))
    _, address = await gateway_node(node_factory, Scripted(*chunks))
    answer = await exchange(address, post(stream=True, frobnicate=1))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["x-aitorrent-ignored"] == "frobnicate"
    found = re.search(r'"id":"(msg_\w{24})"', answer.body.decode())
    assert found is not None
    usage = (
        '{"input_tokens":0,"cache_creation_input_tokens":0,"cache_read_input_tokens":0'
        ',"output_tokens":0}'
    )

    def event(kind: str, rest: str) -> str:
        return f'event: {kind}\ndata: {{"type":"{kind}"{rest}}}\n\n'

    def delta(text: str) -> str:
        return event("content_block_delta", f',"index":0,"delta":{{"type":"text_delta",{text}}}')

    assert answer.body.decode() == (
        event(
            "message_start",
            f',"message":{{"id":"{found[1]}","type":"message","role":"assistant","model":"m",'
            f'"content":[],"stop_reason":null,"stop_sequence":null,"usage":{usage}}}',
        )
        + event("ping", "")
        + event("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}')
        + delta('"text":"H\\u00e9"')
        + delta('"text":" \\"\\n\\u2028"')
        + delta('"text":"!"')
        + event("content_block_stop", ',"index":0')
        + event(
            "message_delta",
            f',"delta":{{"stop_reason":"max_tokens","stop_sequence":null}},"usage":{usage}',
        )
        + event("message_stop", "")
    )


class Counting(FakeBackend):
    """Knows the length of a prompt before it answers."""

    async def count_tokens(self, request: GenerateRequest) -> int:
        return 12


@pytest.mark.parametrize(("is_slow", "tokens"), [(False, 7), (True, 12)])
async def test_stream_begins_with_the_length_of_the_prompt_if_it_is_known(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch, is_slow: bool, tokens: int
) -> None:
    """The first piece has it; a stream that begins without one asks for it."""
    backend: FakeBackend = Scripted(Chunk("a", prompt_tokens=7), END)
    if is_slow:
        monkeypatch.setattr(answers, "HEADERS_S", 0.02)
        backend = Counting("f")
        backend.gate = asyncio.Event()
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post(stream=True))
        begun = await reader.readuntil(b"event: ping")
        if backend.gate is not None:
            backend.gate.set()
        assert b"event: message_stop" in await reader.read()
    assert b'"usage":{"input_tokens":%d,' % tokens in begun


CALLS = (
    ToolCall(id="toolu_1", name="Read", arguments='{"path": "a"}'),
    ToolCall(id="call 2", name="Read", arguments='{"path'),
)
TOOLS = [{"name": "Read", "input_schema": {"type": "object"}}]


async def test_thoughts_text_and_calls_are_blocks_one_after_the_other(
    node_factory: NodeFactory,
) -> None:
    backend = Scripted(
        Chunk("", notice="loading"),
        Chunk("", thinking="h"),
        Chunk("", thinking="m"),
        Chunk("so "),
        Chunk("", tool_calls=CALLS),
        END,
    )
    _, address = await gateway_node(node_factory, backend)
    fields: dict[str, Any] = {"thinking": {"type": "adaptive"}, "tools": TOOLS}
    whole = json.loads((await exchange(address, post(**fields))).body)
    thought, text, first, second = whole["content"]
    assert thought == {"type": "thinking", "thinking": "hm", "signature": "unsigned"}
    assert text == {"type": "text", "text": "so "}
    assert first == {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a"}}
    # ids have to match [A-Za-z0-9_-]+, and an input is an object, also if the model wrote none
    assert second["id"].startswith("toolu_")
    assert second["input"] == {"INVALID_JSON": '{"path'}
    assert (whole["stop_reason"], whole["usage"]["input_tokens"]) == ("tool_use", 3)

    streamed = events(await exchange(address, post(**fields, stream=True)))
    kinds = [e["type"].removeprefix("content_block_") for e in streamed]
    assert kinds == [
        *("message_start", "ping"),
        *("start", "delta", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "stop"),
        *("message_delta", "message_stop"),
    ]
    assert [e["index"] for e in streamed[2:-2]] == [0] * 5 + [1] * 3 + [2] * 3 + [3] * 3
    deltas = [e["delta"] for e in streamed if e["type"] == "content_block_delta"]
    assert deltas[:3] == [
        {"type": "thinking_delta", "thinking": "h"},
        {"type": "thinking_delta", "thinking": "m"},
        {"type": "signature_delta", "signature": "unsigned"},
    ]
    assert deltas[4] == {"type": "input_json_delta", "partial_json": '{"path": "a"}'}
    starts = [e["content_block"] for e in streamed if e["type"] == "content_block_start"]
    assert starts[2] == {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
    assert streamed[-2]["delta"]["stop_reason"] == "tool_use"
    assert streamed[-2]["usage"] == whole["usage"]

    # who does not ask for thoughts, expects the text in the first block
    plain = json.loads((await exchange(address, post(tools=TOOLS))).body)
    assert plain["content"][0] == text
    streamed = events(await exchange(address, post(tools=TOOLS, stream=True)))
    assert streamed[2]["content_block"] == {"type": "text", "text": ""}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind", "text", "header"),
    [
        (Busy("full"), 429, "rate_limit_error", "full", ("retry-after", "1")),
        (
            Unavailable("no peer holds layers 4-8 of m"),
            *(503, "api_error", "no peer holds layers 4-8 of m"),
            ("x-should-retry", "false"),
        ),
        (ShuttingDown("bye"), 503, "overloaded_error", "bye", ("retry-after", "1")),
        (
            Unavailable("m is loading", retry_after_s=5),
            *(503, "overloaded_error", "m is loading", ("retry-after", "5")),
        ),
        (TimedOut("late"), 504, "timeout_error", "late", None),
        (NotFound("no model m"), 404, "not_found_error", "no model m", None),
        (
            InvalidParams("f cannot apply format", params=["format"]),
            *(400, "invalid_request_error", "f cannot apply output_config", None),
        ),
        # the exact texts on which agents shorten their conversation
        (
            InvalidParams("too long", prompt_tokens=205_000, context=200_000),
            *(400, "invalid_request_error"),
            *("prompt is too long: 205000 tokens > 200000 maximum", None),
        ),
        (
            InvalidParams("too long", prompt_tokens=200_000, max_tokens=9, context=200_000),
            *(400, "invalid_request_error"),
            *("prompt is too long: 200000 tokens > 199999 maximum", None),
        ),
    ],
)
async def test_errors_before_the_first_token_have_their_status(
    node_factory: NodeFactory,
    stream: bool,
    error: AitorrentError,
    status: int,
    kind: str,
    text: str,
    header: tuple[str, str] | None,
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", words=(), fails=error))
    answer = await exchange(address, post(stream=stream))
    assert answer.status == status
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": kind, "message": text},
        "request_id": answer.headers["request-id"],
    }
    if header is not None:
        assert answer.headers[header[0]] == header[1]


async def test_errors_before_the_dialect_have_its_shape(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    key = {"x-api-key": "ait_" + "x" * 43}
    huge = {"Content-Length": str(8 * 2**20 + 1)}
    for headers, status, kind in (
        (key, 401, "authentication_error"),
        (huge, 413, "request_too_large"),
        ({}, 400, "invalid_request_error"),
    ):
        answer = await exchange(address, request("POST", "/v1/messages", JSON | headers, b"{"))
        assert (answer.status, json.loads(answer.body)["error"]["type"]) == (status, kind)
    for path in ("/v1/models/nope", "/v1/messages/batches"):  # no dialect's own
        version = {"anthropic-version": "2023-06-01"}
        answer = await exchange(address, request("GET", path, version))
        found = json.loads(answer.body)
        assert (answer.status, found["type"]) == (404, "error")
        assert found["error"]["type"] == "not_found_error"
        assert "code" in (await exchange(address, request("GET", path))).error


async def test_stream_that_fails_ends_with_an_error_and_without_message_stop(
    node_factory: NodeFactory,
) -> None:
    error = InvalidParams("too long", prompt_tokens=60, max_tokens=90, context=100)
    _, address = await gateway_node(node_factory, FakeBackend("f", fails=error))
    answer = await exchange(address, post(stream=True))
    found = events(answer)
    assert answer.status == 200
    assert "message_stop" not in {e["type"] for e in found}
    assert found[-1] == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "input length and `max_tokens` exceed context limit: 60 + 90 > 100",
        },
        "request_id": answer.headers["request-id"],
    }


class Small(FakeBackend):
    """Has a context of 100 tokens, of which the prompt takes 60."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        wanted = request.params.max_tokens or 1
        if 60 + wanted > 100:
            raise InvalidParams("too long", prompt_tokens=60, max_tokens=wanted, context=100)
        yield Chunk("ok", done=True, reason="stop")


async def test_max_tokens_beyond_the_context_is_lowered(node_factory: NodeFactory) -> None:
    backend = Small("f")
    _, address = await gateway_node(node_factory, backend)
    answer = await exchange(address, post(max_tokens=32_000))
    assert json.loads(answer.body)["content"] == [{"type": "text", "text": "ok"}]
    assert [r.params.max_tokens for r in backend.requests] == [32_000, 40]


async def test_a_backend_that_cannot_count_tokens_is_named(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await exchange(address, post("/v1/messages/count_tokens"))
    fault = json.loads(answer.body)["error"]
    assert (answer.status, fault["type"]) == (400, "invalid_request_error")
    assert "f cannot" in fault["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_thinking_can_be_off_with_a_backend_that_cannot_turn_it_off(
    node_factory: NodeFactory, stream: bool
) -> None:
    """Its thoughts are not shown; where the client wants them, it is refused by name."""
    backend = ScriptedBackend(Chunk("", thinking="hm"), Chunk("ok"), END, can=FEATURES - {"think"})
    _, address = await gateway_node(node_factory, backend)
    off = await exchange(address, post(thinking={"type": "disabled"}, stream=stream))
    assert (off.status, b"hm" in off.body, b'"ok"' in off.body) == (200, False, True)
    assert [r.params.think for r in backend.requests][-1] is None
    on = await exchange(address, post(thinking={"type": "enabled"}, stream=stream))
    assert on.status == 400
    assert json.loads(on.body)["error"]["message"].startswith("scripted cannot apply thinking")


async def test_slow_answer_begins_at_once_and_pings(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HEADERS_S", 0.02)
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.02)
    backend = FakeBackend("f")
    backend.gate = asyncio.Event()
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post(stream=True))
        await reader.readuntil(b"event: message_start")  # long before the first token
        for _ in range(3):  # one belongs to the start
            await reader.readuntil(b'event: ping\ndata: {"type":"ping"}\n\n')
        backend.gate.set()
        rest = await reader.read()
    assert b'"text":"two"' in rest
    assert rest.count(b"event: message_stop") == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_gone_client(node_factory: NodeFactory, stream: bool) -> None:
    backend = FakeBackend("f", words=("one ",), hangs=True)
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post(stream=stream))
        await backend.asked.wait()
        if stream:
            await reader.readuntil(b'"text":"one "')
    await wait_for(lambda: backend.running == 0, every_s=0.005)
    assert backend.stopped.is_set()
