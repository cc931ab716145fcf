"""The OpenAI API byte by byte: shape of streams, errors, clients that leave or are slow, and what
users reported about other servers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from aitorrent_gateway.core import answers
from aitorrent_http import service
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    GenerateRequest,
    InvalidParams,
    ModelView,
    StageView,
    TimedOut,
    Unavailable,
)
from tests.support.clients.raw_http import Answer, connection, exchange, request
from tests.support.gateway_nodes import gateway_node
from tests.support.http_nodes import new_token
from tests.support.inference_fakes import FakeBackend
from tests.support.nodes import NodeFactory, wait_for

HELLO = [{"role": "user", "content": "hello"}]
JSON = {"Content-Type": "application/json"}


def post(path: str = "/v1/chat/completions", raw: bytes = b"", **fields: Any) -> bytes:
    body = raw or json.dumps({"model": "m", **fields}).encode()
    return request("POST", path, JSON, body)


def events(body: bytes) -> list[Any]:
    """The data of each event; comments and [DONE] as text."""
    assert body.endswith(b"\n\n")
    lines = body.decode().split("\n\n")[:-1]
    data = [line.removeprefix("data: ") for line in lines]
    return [json.loads(text) if text.startswith("{") else text for text in data]


async def test_stream_has_exactly_this_shape(node_factory: NodeFactory) -> None:
    last = Chunk(
        "",
        done=True,
        reason="length",
        prompt_tokens=3,
        completion_tokens=2,
        stages=(StageView("peer-a", 0, 2), StageView("peer-b", 2, 4)),
    )
    backend = FakeBackend("f", words=("Hé", ' "\n\u2028'), last=last)
    _, address = await gateway_node(node_factory, backend)
    fields: dict[str, Any] = {"messages": HELLO, "stream": True}
    fields["stream_options"] = {"include_usage": True}
    answer = await exchange(address, post(**fields, frobnicate=1))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-aitorrent-ignored"] == "frobnicate"
    found = re.match(rb'data: (\{"id":"(chatcmpl-\w{24})".*?"created":(\d+),)', answer.body)
    assert found is not None
    head = (
        f'{{"id":"{found[2].decode()}","object":"chat.completion.chunk",'
        f'"created":{found[3].decode()},"model":"m","system_fingerprint":"aitorrentd","choices":'
    )

    def chunk(delta: str) -> str:
        choice = f'[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]'
        return f'data: {head}{choice},"usage":null}}\n\n'

    body, speeds = re.subn(rb',"hops":3,("\w+":[0-9.]+,?)+', b"", answer.body)
    assert speeds == 1
    assert body.decode() == (
        chunk('{"role":"assistant","content":""}')
        + chunk('{"content":"H\\u00e9"}')
        + chunk('{"content":" \\"\\n\\u2028"}')
        + f'data: {head}[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"length"}}]'
        ',"usage":null,"x_aitorrent":{"stages":[[0,2],[2,4]]}}\n\n'
        f'data: {head}[],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}\n\n'
        "data: [DONE]\n\n"
    )


async def test_text_completion_streams_and_answers_whole(node_factory: NodeFactory) -> None:
    backend = FakeBackend("f")
    _, address = await gateway_node(node_factory, backend)
    streamed = await exchange(address, post("/v1/completions", prompt="a", stream=True))
    first, second, last, done = events(streamed.body.removeprefix(b": keep-alive\n\n"))
    assert [e["choices"][0]["text"] for e in (first, second, last)] == ["one ", "two", ""]
    assert [e["object"] for e in (first, last)] == ["text_completion"] * 2
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")
    whole = json.loads((await exchange(address, post("/v1/completions", prompt="a"))).body)
    assert whole["choices"] == [
        {"index": 0, "text": "one two", "logprobs": None, "finish_reason": "stop"}
    ]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert [(r.prompt, r.raw) for r in backend.requests] == [("a", True)] * 2


class Thinking(FakeBackend):
    """Thinks before it answers."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        yield Chunk("", notice="loading")
        yield Chunk("", thinking="hm")
        yield Chunk("so")
        extra = {"reasoning_tokens": 1}
        yield Chunk("", done=True, reason="stop", completion_tokens=2, extra=extra)


async def test_thinking_is_kept_apart(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, Thinking("f"))
    streamed = events((await exchange(address, post(messages=HELLO, stream=True))).body)
    deltas = [e["choices"][0]["delta"] for e in streamed[1:-2]]
    assert deltas == [{"reasoning_content": "hm"}, {"content": "so"}]
    whole = json.loads((await exchange(address, post(messages=HELLO))).body)
    message = whole["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("so", "hm")
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param", "header"),
    [
        (Busy("full"), 429, "rate_limit_error", "busy", None, ("retry-after", "1")),
        (
            Unavailable("the server is gone"),
            *(503, "server_error", "unavailable", None, ("x-should-retry", "false")),
        ),
        (
            Unavailable("no node holds layers 4-8 of m", layers=[[4, 8]]),
            *(503, "server_error", "layers_unavailable", None, ("x-should-retry", "false")),
        ),
        (
            Unavailable("layers 4-8 of m are loading", layers=[[4, 8]], retry_after_s=5),
            *(503, "server_error", "layers_unavailable", None, ("retry-after", "5")),
        ),
        (TimedOut("late"), 504, "server_error", "timeout", None, None),
        (
            InvalidParams("f cannot apply format", params=["format"]),
            *(400, "invalid_request_error", "unsupported_value", "response_format", None),
        ),
        (
            InvalidParams("the prompt has 9 tokens", prompt_tokens=9, context=8),
            *(400, "invalid_request_error", "context_length_exceeded", "messages", None),
        ),
    ],
)
async def test_errors_before_the_first_token_have_their_status(
    node_factory: NodeFactory,
    stream: bool,
    error: AitorrentError,
    status: int,
    kind: str,
    code: str,
    param: str | None,
    header: tuple[str, str] | None,
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", words=(), fails=error))
    answer = await exchange(address, post(messages=HELLO, stream=stream))
    assert answer.status == status
    assert answer.error == {
        "message": error.message,
        "type": kind,
        "param": param,
        "code": code,
    }
    if header is not None:
        assert answer.headers[header[0]] == header[1]


async def test_error_after_the_first_token_ends_the_stream_without_done(
    node_factory: NodeFactory,
) -> None:
    error = Unavailable("no peer holds layers 4-8 of m")
    _, address = await gateway_node(node_factory, FakeBackend("f", fails=error))
    answer = await exchange(address, post(messages=HELLO, stream=True))
    *_, told = events(answer.body)
    assert (answer.status, told["error"]["message"]) == (200, error.message)
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in answer.body
    whole = await exchange(address, post(messages=HELLO))  # nothing is half an answer
    assert (whole.status, whole.error["message"]) == (503, error.message)


async def test_answer_that_ends_without_a_reason_is_an_error(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f", forgets_done=True))
    streamed = await exchange(address, post(messages=HELLO, stream=True))
    assert "without a reason" in events(streamed.body)[-1]["error"]["message"]
    assert (await exchange(address, post(messages=HELLO))).status == 503


async def test_silence_is_filled_with_comments(
    node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "HEADERS_S", 0.01)
    monkeypatch.setattr(answers, "KEEP_ALIVE_S", 0.02)
    backend = FakeBackend("f")
    backend.gate = asyncio.Event()
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post(messages=HELLO, stream=True))
        await reader.readuntil(b'"role":"assistant"')  # long before the first token
        await reader.readuntil(b": keep-alive\n\n\r\n")
        await reader.readuntil(b": keep-alive\n\n\r\n")
        backend.gate.set()
        rest = await reader.read()
    assert b'"content":"two"' in rest
    assert rest.count(b"[DONE]") == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [(), ("one ",)], ids=["before", "after"])
@pytest.mark.parametrize(
    ("path", "fields", "answers"),
    [
        ("/v1/chat/completions", {"messages": HELLO}, 1),
        ("/v1/chat/completions", {"messages": HELLO, "n": 3}, 3),
        ("/v1/responses", {"input": "hello"}, 1),
    ],
    ids=["chat", "choices", "responses"],
)
async def test_gone_client(
    node_factory: NodeFactory,
    stream: bool,
    words: tuple[str, ...],
    path: str,
    fields: dict[str, Any],
    answers: int,
) -> None:
    """A client that leaves before or after the first token ends the generations."""
    backend = FakeBackend("f", words=words, hangs=True)
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (reader, writer):
        writer.write(post(path, stream=stream, **fields))
        await wait_for(lambda: backend.running == answers, every_s=0.005)
        if stream and words:
            await reader.readuntil(b'"one "')
    left = asyncio.get_running_loop().time()
    await wait_for(lambda: backend.running == 0, every_s=0.005)
    assert asyncio.get_running_loop().time() - left < 0.5
    assert backend.stopped.is_set()


class Endless(FakeBackend):
    """Never stops."""

    produced = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.running += 1
        try:
            while True:
                self.produced += 1
                yield Chunk("x" * 1000)
                await asyncio.sleep(0)
        finally:
            self.running -= 1


async def test_stalled_reader(node_factory: NodeFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation waits for a client that reads nothing, which is cut off in time."""
    monkeypatch.setattr(service, "LIMITS", replace(service.LIMITS, stalled_s=1.5))
    backend = Endless("f")
    _, address = await gateway_node(node_factory, backend)
    async with connection(address) as (_, writer):
        writer.write(post(messages=HELLO, stream=True))
        seen = -1

        async def waits() -> bool:
            nonlocal seen
            before, seen = seen, backend.produced
            return 0 < before == seen

        await wait_for(waits, 20, every_s=0.2)
        assert backend.produced < 50_000
        await wait_for(lambda: backend.running == 0)  # the client is still there


class Small(FakeBackend):
    """Has a context of 100 tokens, of which the prompt takes 60."""

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk]:
        self.requests.append(request)
        wanted = request.params.max_tokens or 1
        if 60 + wanted > 100:
            raise InvalidParams("too long", prompt_tokens=60, max_tokens=wanted, context=100)
        yield Chunk("ok", done=True, reason="stop")


@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_beyond_the_context_is_lowered(
    node_factory: NodeFactory, stream: bool
) -> None:
    backend = Small("f")
    _, address = await gateway_node(node_factory, backend)
    answer = await exchange(address, post(messages=HELLO, max_tokens=32_000, stream=stream))
    assert answer.status == 200
    assert [r.params.max_tokens for r in backend.requests] == [32_000, 40]


async def test_answer_that_has_begun_is_not_begun_again(node_factory: NodeFactory) -> None:
    error = InvalidParams("too long", prompt_tokens=60, max_tokens=90, context=100)
    backend = FakeBackend("f", fails=error)
    _, address = await gateway_node(node_factory, backend)
    answer = await exchange(address, post(messages=HELLO, max_tokens=90, stream=True))
    text = "your messages have 60 tokens and max_tokens is 90. Lower it."
    assert events(answer.body)[-1]["error"]["message"].endswith(text)
    assert len(backend.requests) == 1


class Twice(FakeBackend):
    """Lists a model as two backends would."""

    async def models(self) -> list[ModelView]:
        return [
            ModelView("org/m", "f", context_length=64),
            ModelView("a", "f"),
            ModelView("org/m", "peer:12D3KooW"),
        ]


async def test_models(node_factory: NodeFactory) -> None:
    node, address = await gateway_node(node_factory, Twice("f"), anonymous=[])
    assert (await exchange(address, request("GET", "/v1/models"))).status == 401
    key = {"Authorization": f"Bearer {await new_token(node, 'generate')}"}
    listed = json.loads((await exchange(address, request("GET", "/v1/models", key))).body)
    assert [(m["id"], m["object"], m.get("context_length")) for m in listed["data"]] == [
        ("a", "model", None),
        ("org/m", "model", 64),
    ]
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", "a", "org/m")
    assert "12D3KooW" not in json.dumps(listed)  # this role must not learn of peers
    for path in ("/v1/models/org/m", "/v1/models/org%2Fm"):
        one = json.loads((await exchange(address, request("GET", path, key))).body)
        assert one == listed["data"][1]
    missing = await exchange(address, request("GET", "/v1/models/%0d%0ax:%20y", key))
    assert (missing.status, missing.error["code"]) == (404, "model_not_found")
    assert "x" not in missing.headers  # crlf_in_model_name


def deltas(answer: Answer) -> list[dict[str, Any]]:
    return [e["choices"][0] for e in events(answer.body) if e != "[DONE]" and e["choices"]]


async def test_reports_about_other_servers(node_factory: NodeFactory) -> None:
    """Each line is what users of another server reported, and holds here."""
    backend = FakeBackend("f")
    _, address = await gateway_node(node_factory, backend)
    usage: dict[str, Any] = {"stream_options": {"include_usage": True}}
    stream = await exchange(address, post(messages=HELLO, stream=True, **usage))
    chunks = [e for e in events(stream.body) if e != "[DONE]"]
    # vllm 19662, ollama 4357: finish_reason was "" in inner chunks
    assert [c["finish_reason"] for c in deltas(stream)[:-1]] == [None] * 3
    # vllm 36944: the last text and finish_reason came in one chunk
    assert deltas(stream)[-1]["delta"] == {}
    # llama.cpp 15443, ATOM 1711: the chunk with the usage had no empty list of choices
    assert [c["choices"] == [] for c in chunks] == [False] * 4 + [True]
    # text-generation-inference 3003: usage was not null before the last chunk
    assert [c["usage"] is None for c in chunks] == [True] * 4 + [False]
    # apfel 100: it came unasked, and clients look at the first choice of each chunk
    unasked = await exchange(address, post(messages=HELLO, stream=True))
    assert b"usage" not in unasked.body
    # opencode 42918: chunks with an empty id and model
    assert {(c["id"], c["model"], c["created"]) for c in chunks} == {
        (chunks[0]["id"], "m", chunks[0]["created"])
    }
    # langchaingo 667: content in parts was answered with 500
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    await exchange(address, post(messages=[{"role": "user", "content": parts}]))
    assert (backend.requests[-1].messages or ())[0].content == "ab"
    # ollama 13371: an empty answer had content null
    backend.words = ()
    empty = json.loads((await exchange(address, post(messages=HELLO))).body)
    assert empty["choices"][0]["message"]["content"] == ""
    # endpoints 133: no `refusal` in the message
    assert empty["choices"][0]["message"]["refusal"] is None
    # open clients repeat their own empty turn: {"role": "assistant", "content": null}
    turns = [*HELLO, {"role": "assistant", "content": None, "tool_calls": []}, *HELLO]
    assert (await exchange(address, post(messages=turns))).status == 200
    # OpenOats 716: the error of a missing model was not in the shape that clients show
    missing = await exchange(address, post(model="none", messages=HELLO))
    assert (missing.status, missing.error["code"], missing.error["param"]) == (
        *(404, "model_not_found"),
        "model",
    )
    # vllm 54947, lmdeploy 548, OpenLLM 801: test_gone_client


@pytest.mark.parametrize(
    ("raw", "status", "text"),
    [
        (b"", 400, "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, 400, "nests more than"),
        (b'{"model":"m","model":"n"}', 400, "the key 'model' twice"),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}', 400, "surrogate"),
    ],
    ids=["empty", "json_depth", "json_duplicate_keys", "surrogate"],
)
async def test_hostile_bodies(
    node_factory: NodeFactory, raw: bytes, status: int, text: str
) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    answer = await exchange(address, request("POST", "/v1/chat/completions", JSON, raw))
    assert (answer.status, text in answer.error["message"]) == (status, True)


async def test_huge_body(node_factory: NodeFactory) -> None:
    _, address = await gateway_node(node_factory, FakeBackend("f"))
    length = {"Content-Length": str(8 * 2**20 + 1)}
    answer = await exchange(address, request("POST", "/v1/chat/completions", JSON | length, b"{"))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_more_requests_than_the_settings_allow_wait_outside(
    node_factory: NodeFactory,
) -> None:
    backend = FakeBackend("f", hangs=True)
    node, address = await gateway_node(node_factory, backend)
    node.kernel.configure("gateway", {"requests": 1})
    await node.kernel.restart("gateway")
    async with connection(address) as (reader, writer):
        writer.write(post(messages=HELLO, stream=True))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        answer = await exchange(address, post(messages=HELLO))
        assert (answer.status, answer.error["type"]) == (429, "rate_limit_error")
