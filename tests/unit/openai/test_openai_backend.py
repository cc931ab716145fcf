"""The OpenAI backend against a server that follows the documented API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aitorrent_openai.backend import REST_S, OpenaiBackend
from aitorrent_openai.chunks import AnswerReader
from aitorrent_openai.config import OpenaiConfig, ServerConfig
from aitorrent_openai.models import view
from aitorrent_openai.requests import chat_body, completion_body
from aitorrent_openai.sse import MAX_EVENT_BYTES, Event, EventDecoder
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Chunk,
    Denied,
    GenerateRequest,
    InvalidParams,
    Message,
    ModelView,
    NotFound,
    ProtocolError,
    SamplingParams,
    TimedOut,
    Unavailable,
)
from tests.support.clocks import FakeClock
from tests.support.effort import examples
from tests.support.servers.canned import expected, read
from tests.support.servers.http_server import HttpServer, Reply, Request
from tests.support.servers.openai_server import KEY, FakeOpenai
from tests.support.servers.relays import answer, closed_after, json_values, saying

log = logging.getLogger("test.openai")


@asynccontextmanager
async def backend_of(
    server: HttpServer, *, rest_s: float = REST_S, **settings: Any
) -> AsyncIterator[OpenaiBackend]:
    config = ServerConfig(name="test", url=server.url, **settings)
    backend = OpenaiBackend(config, clock=FakeClock(), log=log, rest_s=rest_s)
    async with closed_after(backend):
        yield backend


def chat(**params: Any) -> GenerateRequest:
    return GenerateRequest(
        model="gpt-4o-mini",
        messages=(Message(role="user", content="hi"),),
        params=SamplingParams(**params),
    )


PROMPT = GenerateRequest(model="text-model", prompt="Once upon")


async def test_models_are_those_that_the_server_lists() -> None:
    async with FakeOpenai() as server, backend_of(server) as backend:
        assert backend.name == "openai:test"
        assert await backend.models() == (
            ModelView("gpt-4o-mini", "openai:test", detail="by openai"),
            ModelView("text-model", "openai:test", detail="by openai"),
        )


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ([{"id": "a"}, {"id": "org/b"}], ["a", "org/b"]),
        ({"models": [{"name": "a"}, {"model": "b"}]}, ["a", "b"]),
        ({"data": ["a", "b"]}, ["a", "b"]),
        ({"object": "list", "data": None}, []),
        ({"data": [{"id": "a", "x": 1}, {"id": "b"}, {"id": "a"}, "b"]}, ["a", "b"]),
        ({"data": {"models": [{"id": "a"}]}}, ["a"]),
        ({"data": {"a": {"max_model_len": 5}, "b": {}}}, ["a", "b"]),
        ({"models": {}}, []),
        ({"data": [{"id": 1}, {}, None, {"id": "a"}]}, ["a"]),
    ],
)
async def test_list_of_models_in_any_dialect_is_read(listed: Any, names: list[str]) -> None:
    async with saying(200, json.dumps(listed).encode()) as server, backend_of(server) as backend:
        assert [v.name for v in await backend.models()] == names


@pytest.mark.parametrize("name", expected("streams/openai-models"))
async def test_list_of_models_that_occurs_is_read(name: str) -> None:
    right = expected("streams/openai-models")[name]
    body = read("streams/openai-models", name)
    async with saying(200, body) as server, backend_of(server) as backend:
        assert [v.name for v in await backend.models()] == right["models"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error":{"message":"no credits"}}', "openai:test: no credits"),
        (b"<html>Sign in</html>", r"invalid JSON \(application/json\): <html>Sign in"),
        (b'{"object":"list"}', "did not list models"),
    ],
)
async def test_list_of_models_that_is_an_error_is_told(body: bytes, says: str) -> None:
    async with saying(200, body) as server, backend_of(server) as backend:
        with pytest.raises(AitorrentError, match=says):
            await backend.models()


@pytest.mark.parametrize(
    "row",
    [
        {"id": "m", "type": "embedding"},
        {"id": "text-embedding-3-small"},
        {"id": "nomic/nomic-embed-text:v1.5"},
        {"id": "whisper-1"},
        {"id": "m", "capabilities": {"completion_chat": False}},
        {"id": "m", "capabilities": ["embedding"]},
        {"id": "m", "capabilities": ["embed"]},
        {"id": "m", "capabilities": {"type": "embeddings"}},
        {"id": "m", "task": "feature-extraction"},
        {"id": "gpt-4o-transcribe"},
        {"id": "stable-diffusion-3.5"},
        {"id": "m", "architecture": {"output_modalities": ["image"]}},
    ],
)
async def test_model_that_cannot_chat_is_not_offered(row: dict[str, Any]) -> None:
    body = json.dumps({"data": [row, {"id": "chatty"}]}).encode()
    async with saying(200, body) as server:
        async with backend_of(server) as backend:
            assert [v.name for v in await backend.models()] == ["chatty"]
        async with backend_of(server, models=[row["id"]]) as backend:  # who names it knows better
            assert [v.name for v in await backend.models()] == [row["id"]]


def test_context_in_use_is_shown_before_the_trained_one() -> None:
    meta = {"n_ctx": 4096, "n_ctx_train": 131072, "size": 7}
    shown = view({"id": "m", "meta": meta}, "openai:test")
    assert (shown.context_length, shown.size_bytes) == (4096, 7)
    assert view({"id": "m", "context_length": "8192"}, "openai:test").context_length == 8192


async def test_image_format_and_effort_go_to_the_server() -> None:
    picture = "iVBORw0KGgo="
    request = GenerateRequest(
        model="gpt-4o-mini",
        messages=(Message(role="user", content="what is it?", images=(picture,)),),
        params=SamplingParams(format={"type": "object"}, think="low"),
    )
    body = chat_body(request)
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    schema = {"name": "answer", "schema": {"type": "object"}}
    assert body["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert body["reasoning_effort"] == "low"
    assert chat_body(chat(format="json"))["response_format"] == {"type": "json_object"}
    assert "max_tokens" not in chat_body(chat(max_tokens=-1))  # the server's default is the rest


@pytest.mark.parametrize(
    "params",
    [
        {"num_ctx": 8192},
        {"context": (1,)},
        {"repeat_last_n": 64},
        {"think": True},
        {"think": False},
    ],
)
def test_parameter_that_the_api_lacks_is_refused_by_name(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams, match=f"cannot apply {next(iter(params))}"):
        chat_body(chat(**params))
    raw = PROMPT.model_copy(update={"params": SamplingParams(**params)})
    with pytest.raises(InvalidParams, match=next(iter(params))):
        completion_body(raw)


async def test_error_in_the_stream_that_names_a_parameter_is_not_tried_again() -> None:
    body = (
        b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n'
        b'data: {"error":{"message":"stream_options","code":400,"param":"stream_options"}}\n\n'
    )
    async with saying(200, body) as server, backend_of(server) as backend:
        with pytest.raises(InvalidParams, match="stream_options"):
            await answer(backend, chat())
    assert len(server.requests) == 1


async def test_server_that_keeps_the_connection_open_after_the_end_is_left() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.start("text/event-stream")
        await reply.part(
            b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
        )
        await asyncio.Event().wait()

    async with HttpServer(handler) as server, backend_of(server, rest_s=0.05) as backend:
        assert [c.text for c in await answer(backend, chat())] == ["x", ""]


async def test_only_allowed_models_are_used() -> None:
    async with FakeOpenai() as server, backend_of(server, models=["text-model"]) as backend:
        assert [v.name for v in await backend.models()] == ["text-model"]
        with pytest.raises(NotFound, match="is not in the models of openai:test"):
            await answer(backend, chat())


async def test_server_without_a_list_has_the_configured_models() -> None:
    async with FakeOpenai(has_models=False) as server:
        async with backend_of(server, models=["a"]) as backend:
            assert [v.name for v in await backend.models()] == ["a"]
        async with backend_of(server) as backend:
            with pytest.raises(NotFound, match="Not Found"):
                await backend.models()


async def test_conversation_goes_to_the_chat() -> None:
    async with FakeOpenai() as server, backend_of(server) as backend:
        chunks = await answer(
            backend,
            chat(
                temperature=0.5,
                top_p=0.9,
                min_p=0.1,
                repeat_penalty=1.2,
                presence_penalty=1,
                frequency_penalty=-1,
                seed=7,
                stop=("END",),
                max_tokens=9,
            ),
        )
    assert chunks == [
        Chunk("Hel"),
        Chunk("lo"),
        Chunk("!"),
        Chunk("", done=True, reason="stop", prompt_tokens=9, completion_tokens=3),
    ]
    assert server.requests[-1].path == "/v1/chat/completions"
    assert server.requests[-1].json() == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "repeat_penalty": 1.2,
        "seed": 7,
        "max_tokens": 9,
        "stop": ["END"],
    }


async def test_bare_prompt_is_a_users_message() -> None:
    async with FakeOpenai() as server, backend_of(server) as backend:
        assert (await answer(backend, PROMPT))[-1].done
    assert [r.path for r in server.requests] == ["/v1/chat/completions"]
    assert server.requests[0].json()["messages"] == [{"role": "user", "content": "Once upon"}]


async def test_bare_prompt_goes_to_completions_where_that_is_wanted() -> None:
    server = FakeOpenai(finish_reason="length")
    async with server, backend_of(server, completions=True) as backend:
        chunks = await answer(backend, PROMPT)
    assert "".join(c.text for c in chunks) == "Hello!"
    assert chunks[-1].reason == "length"
    assert server.requests[-1].path == "/v1/completions"
    assert server.requests[-1].json()["prompt"] == "Once upon"


@pytest.mark.parametrize(("has", "asked_again"), [("no", False), ("chat-only", True)])
async def test_bare_prompt_goes_to_the_chat_where_there_are_no_completions(
    has: str, asked_again: bool
) -> None:
    server = FakeOpenai(completions=has)
    async with server, backend_of(server, completions=True) as backend:
        for _ in range(2):
            chunks = await answer(backend, PROMPT)
            assert "".join(c.text for c in chunks) == "Hello!"
    assert server.requests[1].json()["messages"] == [{"role": "user", "content": "Once upon"}]
    paths = [r.path for r in server.requests]
    assert paths.count("/v1/completions") == (2 if asked_again else 1)


async def test_raw_prompt_goes_to_completions_and_never_to_the_chat() -> None:
    raw = PROMPT.model_copy(update={"raw": True})
    async with FakeOpenai() as server, backend_of(server) as backend:
        assert (await answer(backend, raw))[-1].done
    assert [r.path for r in server.requests] == ["/v1/completions"]
    async with FakeOpenai(completions="no") as server, backend_of(server) as backend:
        with pytest.raises(AitorrentError, match="Not Found"):
            await answer(backend, raw)
    assert "/v1/chat/completions" not in [r.path for r in server.requests]


async def test_missing_model_is_not_found() -> None:
    async with FakeOpenai() as server, backend_of(server, completions=True) as backend:
        for request in (PROMPT, chat()):
            with pytest.raises(NotFound, match="The model `zz` does not exist"):
                await answer(backend, request.model_copy(update={"model": "zz"}))


async def test_refused_parameters_are_taken_back_once_and_for_all() -> None:
    server = FakeOpenai(refuses=("stream_options", "max_tokens"))
    async with server, backend_of(server) as backend:
        for _ in range(2):
            assert (await answer(backend, chat(max_tokens=5)))[-1].done
    bodies = [r.json() for r in server.requests]
    assert len(bodies) == 4
    assert "stream_options" not in bodies[-1]
    assert bodies[-1]["max_completion_tokens"] == 5


@pytest.mark.parametrize("name", ["seed", "min_p", "repeat_penalty"])
async def test_other_refused_parameter_is_an_error(name: str) -> None:
    async with FakeOpenai(refuses=(name,)) as server, backend_of(server) as backend:
        with pytest.raises(InvalidParams, match=f"Unsupported parameter: '{name}'"):
            await answer(backend, chat(**{name: 1}))


async def test_key_is_sent_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeOpenai(needs_key=True) as server:
        async with backend_of(server, api_key=KEY) as backend:
            assert (await answer(backend, chat()))[-1].done
            await backend.models()
        async with backend_of(server, api_key="wrong") as backend:
            with pytest.raises(Denied, match="check the api_key of server 'test'") as caught:
                await answer(backend, chat())
    assert "wrong" not in str(caught.value)
    assert KEY not in caplog.text
    assert KEY not in repr(ServerConfig(name="a", url=server.url, api_key=KEY))


async def test_stream_that_ends_with_a_reason_but_not_done_is_complete() -> None:
    async with FakeOpenai(says_done=False) as server, backend_of(server) as backend:
        assert (await answer(backend, chat()))[-1].reason == "stop"


async def test_stream_that_ends_with_done_but_no_reason_is_complete() -> None:
    async with FakeOpenai(finish_reason=None) as server, backend_of(server) as backend:
        assert (await answer(backend, chat()))[-1].reason == "stop"


async def test_missing_usage_counts_nothing() -> None:
    async with FakeOpenai(has_usage=False) as server, backend_of(server) as backend:
        assert (await answer(backend, chat()))[-1].completion_tokens == 0


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ({"breaks_after": 2}, Unavailable, "closed the connection early"),
        (
            {"finish_reason": None, "says_done": False},
            Unavailable,
            "before its answer was complete",
        ),
        ({"fails_after": 2}, Unavailable, "The server had an error"),
        ({"finish_reason": "content_filter"}, Unavailable, "cut the answer short: content_filter"),
    ],
)
async def test_incomplete_answer_is_an_error_and_never_a_stop(
    how: Any, error: type[AitorrentError], why: str
) -> None:
    async with FakeOpenai(**how) as server, backend_of(server) as backend:
        chunks = []
        with pytest.raises(error, match=why):
            async for c in backend.generate(chat()):
                chunks.append(c)  # noqa: PERF401
    assert [c.text for c in chunks][:2] == ["Hel", "lo"]
    assert not any(c.done for c in chunks)


async def test_giving_up_an_answer_closes_the_connection() -> None:
    async with FakeOpenai(hangs_after=1) as server, backend_of(server) as backend:
        async with aclosing(backend.generate(chat())) as chunks:
            assert (await anext(chunks)).text == "Hel"
        async with asyncio.timeout(5):
            await server.cancelled.wait()


async def test_silent_server_is_given_up() -> None:
    server = FakeOpenai(hangs_after=1)
    async with server, backend_of(server, read_timeout_s=0.1) as backend:
        with pytest.raises(TimedOut, match="did not answer in time"):
            await answer(backend, chat())


async def test_missing_server_is_unavailable_until_it_comes() -> None:
    server = FakeOpenai()
    await server.start()
    await server.stop()
    clock = FakeClock()
    config = ServerConfig(name="test", url=server.url)
    backend = OpenaiBackend(config, clock=clock, log=log)
    with pytest.raises(Unavailable, match="cannot connect to http"):
        await backend.models()
    with pytest.raises(Unavailable, match="cannot connect to http"):
        await answer(backend, chat())
    await server.start()
    clock.now += 5
    assert len(await backend.models()) == 2
    await server.stop()
    await backend.close()


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (
            400,
            b'{"error":{"message":"too long","code":"x"}}',
            InvalidParams,
            "openai:test: too long",
        ),
        (400, b'{"detail":[{"loc":["body"]}]}', InvalidParams, "loc"),
        (403, b"{}", Denied, "HTTP status 403"),
        (429, b'{"error":{"message":"slow down","code":"rate_limit"}}', Busy, "slow down"),
        (429, b'{"error":{"message":"pay","code":"insufficient_quota"}}', Denied, "pay"),
        (408, b"", TimedOut, "HTTP status 408"),
        (500, b'{"error":"oops"}', Unavailable, "oops"),
        (503, b"<html>", Unavailable, "<html>"),
        (200, b"data: nonsense\n\n", ProtocolError, "invalid JSON: nonsense"),
        (200, b"data: [1]\n\n", ProtocolError, "not a JSON object"),
        (200, b'data: {"choices":[{"delta":{"content":1}}]}\n\n', ProtocolError, "not a string"),
        (200, b'data: {"choices":[1]}\n\n', ProtocolError, "not a list of objects"),
        (200, b"", Unavailable, "before its answer was complete"),
    ],
)
async def test_every_error_answer_becomes_the_right_error(
    status: int, body: bytes, error: type[AitorrentError], text: str
) -> None:
    async with saying(status, body) as server, backend_of(server) as backend:
        with pytest.raises(error, match=text):
            await answer(backend, chat())


def test_base_url_may_be_written_with_or_without_v1() -> None:
    def base(url: str) -> str:
        return ServerConfig(name="a", url=url).url

    assert base("http://x:1") == base("http://x:1/") == base("http://x:1/v1/") == "http://x:1/v1"
    assert base("https://x/api/openai/v1") == "https://x/api/openai/v1"
    assert base("https://x/proxy") == "https://x/proxy"


@pytest.mark.parametrize(
    "servers",
    [
        [{"name": "A b", "url": "http://x"}],
        [{"name": "a", "url": "x"}],
        [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}],
        [{"name": "a", "url": "http://x", "key": "s"}],
        [{"name": "a", "url": "http://x", "api_key": "sk-\nx"}],
        [{"name": "a", "url": "http://x", "api_key": "sk-ä"}],
        [{"name": "a", "url": "http://x", "api_key": "\n"}],
    ],
)
def test_bad_server_is_a_configuration_error(servers: Any) -> None:
    with pytest.raises(ValidationError, match="servers"):
        OpenaiConfig(servers=servers)


def test_key_from_a_file_loses_its_line_feed() -> None:
    key = ServerConfig(name="a", url="http://x", api_key=f"{KEY}\n").api_key
    assert key is not None
    assert key.get_secret_value() == KEY


# server-sent events


def test_events_are_put_together_from_their_lines() -> None:
    text = b": hi\ndata: a\ndata:b\nevent: x\nid: 1\n\n\ndata\n\ndata:  c\r\n\r\ndata: d\r\r"
    events = [Event("x", b"a\nb"), Event("", b""), Event("", b" c"), Event("", b"d")]
    assert EventDecoder().feed(text + b"x") == events


def test_event_without_its_blank_line_is_told_at_the_end() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"data: a\ndata: b") == []
    assert decoder.end() == [Event("", b"a\nb")]
    assert decoder.end() == []


def test_line_that_is_no_field_is_kept_for_the_error() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b"no healthy upstream\n\n") == []
    assert decoder.stray == b"no healthy upstream"
    with pytest.raises(ProtocolError, match="not an event field: dota:"):
        decoder.feed(b'dota: {"choices":[]}\n')


def test_endless_event_is_refused() -> None:
    decoder = EventDecoder()
    with pytest.raises(ProtocolError, match="an event larger than"):
        for _ in range(5):
            decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES // 4) + b"\n")


@settings(max_examples=examples(150))
@given(
    st.lists(st.sampled_from([b"data: x", b"data:", b":c", b"id: 1", b"", b"\xff"]), max_size=12),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(0, 80), max_size=5),
)
def test_events_are_the_same_however_the_bytes_are_cut(
    lines: list[bytes], end: bytes, cuts: list[int]
) -> None:
    text = b"".join(line + end for line in lines)
    at_once = EventDecoder()
    whole = [*at_once.feed(text), *at_once.end()]
    decoder, parts, start = EventDecoder(), [], 0
    for cut in [*sorted(cuts), len(text)]:
        parts += decoder.feed(text[start:cut])
        start = max(start, cut)
    assert [*parts, *decoder.end()] == whole


choice = st.dictionaries(
    st.sampled_from(["delta", "text", "message", "finish_reason", "index"]),
    json_values | st.fixed_dictionaries({"content": json_values}),
)


@settings(max_examples=examples(150))
@given(
    st.dictionaries(st.sampled_from(["choices", "usage", "error"]), json_values)
    | st.fixed_dictionaries({"choices": st.lists(choice, max_size=2)})
)
@example({"choices": [{"delta": {"content": "\ud800"}}]})
def test_any_event_is_text_or_an_error(event: dict[str, Any]) -> None:
    reader = AnswerReader("s")
    with suppress(ProtocolError, Unavailable):
        chunk = reader.read(event)
        (chunk.text + chunk.thinking).encode()
        assert reader.finish(said_done=True).done
