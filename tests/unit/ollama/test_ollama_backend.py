"""The Ollama backend against a server that follows Ollama's documented API."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aitorrent_ollama.answers import AnswerReader
from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrent_ollama.requests import options, request_body
from aitorrentd.api import (
    AitorrentError,
    Busy,
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
from aitorrentd.api.relays.client import json_object
from aitorrentd.api.relays.reported_errors import error_in_body
from tests.support.clocks import FakeClock
from tests.support.effort import examples
from tests.support.servers.canned import expected, read
from tests.support.servers.http_server import HttpServer, Reply, Request
from tests.support.servers.ollama_server import FIGURES, FakeOllama
from tests.support.servers.relays import answer, closed_after, json_values, saying

log = logging.getLogger("test.ollama")


@asynccontextmanager
async def backend_of(server: HttpServer, **settings: Any) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(OllamaConfig(url=server.url, **settings), clock=FakeClock(), log=log)
    async with closed_after(backend):
        yield backend


def ask(model: str = "llama3.2:latest", **params: Any) -> GenerateRequest:
    return GenerateRequest(
        model=model, prompt="Why is the sky blue?", params=SamplingParams(**params)
    )


async def test_models_have_size_family_and_context_length() -> None:
    async with FakeOllama() as server, backend_of(server) as backend:
        assert await backend.models() == (
            ModelView(
                "llama3.2:latest",
                "ollama",
                3825819519,
                "llama",
                None,
                "8.0B Q4_0 made for 8192 tokens",
                lacks=frozenset({"tools", "images", "think"}),
            ),
        )


@pytest.mark.parametrize(
    ("parameters", "loaded", "configured", "shown"),
    [
        ("", None, None, None),
        ("", 4096, None, 4096),
        ("stop  x\nnum_ctx                        2048", None, None, 2048),
        ("num_ctx 2048", 4096, None, 2048),
        ("num_ctx 2048", 4096, 6000, 6000),
        ("", 4096, 100_000, 8192),
    ],
)
async def test_context_is_the_one_that_ollama_uses(
    parameters: str, loaded: int | None, configured: int | None, shown: int | None
) -> None:
    server = FakeOllama(parameters=parameters, loaded_context=loaded)
    async with server, backend_of(server, num_ctx=configured) as backend:
        assert [v.context_length for v in await backend.models()] == [shown]
        await answer(backend, ask())
        sent = server.requests[-1].json().get("options", {})
        assert sent.get("num_ctx") == configured
        await answer(backend, ask(num_ctx=512))
        assert server.requests[-1].json()["options"] == {"num_ctx": 512}


async def test_requests_that_come_first_share_the_client_that_is_closed() -> None:
    async with FakeOllama() as server, backend_of(server) as backend:
        clients = await asyncio.gather(*(backend._connected() for _ in range(5)))
        assert {id(client) for client in clients} == {id(backend._client)}


async def test_model_for_embeddings_is_not_offered() -> None:
    folder = "streams/ollama"
    right = expected(folder)["tags-embedding-first.json"]

    async def handler(request: Request, reply: Reply) -> None:
        if request.path == "/api/tags":
            await reply.send(200, read(folder, "tags-embedding-first.json"), "application/json")
        elif request.path == "/api/show":
            name = request.json()["model"].removesuffix(":latest")
            await reply.send(200, read(folder, f"show-{name}.json"), "application/json")
        else:
            await reply.send(404, b"404 page not found", "text/plain")

    async with HttpServer(handler) as server, backend_of(server) as backend:
        assert [v.name for v in await backend.models()] == [right["default_model"]]


async def test_model_that_is_listed_twice_or_without_a_name_is_shown_once() -> None:
    rows = [{"name": "a:latest"}, {"model": "b:latest"}, {"name": "a:latest"}, {"name": ""}, 3]
    body = json.dumps({"models": rows}).encode()
    async with saying(200, body) as server, backend_of(server) as backend:
        assert [v.name for v in await backend.models()] == ["a:latest", "b:latest"]


@pytest.mark.parametrize(
    ("capabilities", "lacks"),
    [(None, set()), ([], set()), (["completion", "vision"], {"tools", "think"})],
)
async def test_model_stays_offered_where_nothing_says_that_it_cannot_answer(
    capabilities: list[str] | None, lacks: set[str]
) -> None:
    server = FakeOllama(capabilities=capabilities)
    async with server, backend_of(server) as backend:
        (view,) = await backend.models()
        assert view.lacks == lacks


@pytest.mark.parametrize(
    ("written", "sent"),
    [("-1", -1), ("0", 0), (-1, -1), ("300", 300), ("1.5", 1.5), ("5m", "5m"), ("1h30m", "1h30m")],
)
async def test_keep_alive_is_sent_as_ollama_takes_it(written: Any, sent: Any) -> None:
    async with FakeOllama() as server, backend_of(server, keep_alive=written) as backend:
        await answer(backend, ask())
    value = server.requests[-1].json()["keep_alive"]
    assert (value, type(value)) == (sent, type(sent))


@pytest.mark.parametrize("written", ["for ever", "5 m", "5min", "m", "", True, float("inf"), "٥m"])
def test_keep_alive_that_ollama_refuses_is_a_configuration_error(written: Any) -> None:
    with pytest.raises(ValidationError, match="keep_alive"):
        OllamaConfig(keep_alive=written)


async def test_images_format_and_thinking_go_to_the_server() -> None:
    message = Message(role="user", content="what is it?", images=("aGVsbG8=",))
    params = SamplingParams(format="json", think=True)
    request = GenerateRequest(model="m", messages=(message,), params=params)
    _, body = request_body(request, None)
    assert body["messages"] == [{"role": "user", "content": "what is it?", "images": ["aGVsbG8="]}]
    assert (body["format"], body["think"]) == ("json", True)


def test_what_ollama_would_drop_is_refused_by_name() -> None:
    far = Message(role="user", content="hi", images=("https://example.org/a.png",))
    with pytest.raises(InvalidParams, match="cannot fetch an image"):
        request_body(GenerateRequest(model="m", messages=(far,)), None)
    near = Message(role="user", content="hi")
    params = SamplingParams(context=(1, 2))
    with pytest.raises(InvalidParams, match="Ollama cannot apply context"):
        request_body(GenerateRequest(model="m", messages=(near,), params=params), None)


async def test_only_allowed_models_are_used() -> None:
    server = FakeOllama(names=["llama3.2:latest", "mistral:7b", "phi3:latest"])
    async with server, backend_of(server, models=["llama3.2", "mistral:7b"]) as backend:
        assert [v.name for v in await backend.models()] == ["llama3.2:latest", "mistral:7b"]
        with pytest.raises(NotFound, match=r"'phi3:latest' is not in plugins\.ollama\.models"):
            await answer(backend, ask("phi3:latest"))


async def test_prompt_goes_to_generate_with_context_and_options() -> None:
    async with FakeOllama() as server, backend_of(server, keep_alive="10m") as backend:
        chunks = await answer(
            backend,
            ask(
                temperature=0.5,
                top_p=0.9,
                top_k=5,
                min_p=0.1,
                repeat_penalty=1.2,
                repeat_last_n=-1,
                presence_penalty=0.0,
                frequency_penalty=-0.5,
                seed=7,
                stop=("END",),
                max_tokens=9,
                context=(8, 9),
            ),
        )
    assert [c.text for c in chunks] == ["The", " sky", " is blue", ""]
    last = chunks[-1]
    assert (last.done, last.reason, last.context) == (True, "stop", (8, 9, 1, 2, 3))
    assert (last.prompt_tokens, last.completion_tokens) == (26, 3)
    assert last.extra == {k: v for k, v in FIGURES.items() if k.endswith("duration")}
    assert server.requests[-1].path == "/api/generate"
    assert server.requests[-1].json() == {
        "model": "llama3.2:latest",
        "prompt": "Why is the sky blue?",
        "context": [8, 9],
        "stream": True,
        "truncate": False,
        "shift": False,
        "options": {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "repeat_penalty": 1.2,
            "repeat_last_n": -1,
            "presence_penalty": 0.0,
            "frequency_penalty": -0.5,
            "seed": 7,
            "num_predict": 9,
            "stop": ["END"],
        },
        "keep_alive": "10m",
    }


async def test_messages_go_to_chat() -> None:
    messages = (Message(role="system", content="be brief"), Message(role="user", content="hi"))
    async with FakeOllama() as server, backend_of(server) as backend:
        chunks = await answer(backend, GenerateRequest(model="llama3.2", messages=messages))
    assert "".join(c.text for c in chunks) == "The sky is blue"
    assert chunks[-1].done
    assert chunks[-1].context is None
    assert server.requests[-1].path == "/api/chat"
    assert server.requests[-1].json() == {
        "model": "llama3.2",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "stream": True,
        "truncate": False,
        "shift": False,
    }


@pytest.mark.parametrize(
    ("reason", "max_tokens", "expected"),
    [
        ("length", None, "length"),
        ("stop", 3, "stop"),
        (None, 3, "length"),
        (None, 4, "stop"),
        (None, -1, "stop"),
        (None, None, "stop"),
    ],
)
async def test_reason_is_told_also_by_old_servers_that_give_none(
    reason: str | None, max_tokens: int | None, expected: str
) -> None:
    async with FakeOllama(done_reason=reason) as server, backend_of(server) as backend:
        assert (await answer(backend, ask(max_tokens=max_tokens)))[-1].reason == expected


async def test_missing_model_says_how_to_get_it() -> None:
    async with FakeOllama() as server, backend_of(server) as backend:
        with pytest.raises(
            NotFound, match="'mistral' not found; get it with `ollama pull mistral`"
        ):
            await answer(backend, ask("mistral"))


async def test_busy_server_is_busy() -> None:
    async with FakeOllama(is_busy=True) as server, backend_of(server) as backend:
        with pytest.raises(Busy, match="Ollama: server busy, please try again"):
            await answer(backend, ask())


async def test_error_line_in_the_middle_is_an_error() -> None:
    async with FakeOllama(fails_after=2) as server, backend_of(server) as backend:
        chunks = []
        with pytest.raises(Unavailable, match="an unknown error was encountered"):
            async for c in backend.generate(ask()):
                chunks.append(c)  # noqa: PERF401
    assert [c.text for c in chunks] == ["The", " sky"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"breaks_after": 2}, "closed the connection early"),
        ({"ends_after": 2}, "before its answer was complete"),
    ],
)
async def test_truncated_stream_is_an_error_and_never_a_stop(how: Any, why: str) -> None:
    async with FakeOllama(**how) as server, backend_of(server) as backend:
        chunks = []
        with pytest.raises(Unavailable, match=why):
            async for c in backend.generate(ask()):
                chunks.append(c)  # noqa: PERF401
    assert not any(c.done for c in chunks)


async def test_giving_up_an_answer_closes_the_connection() -> None:
    async with FakeOllama(hangs_after=1) as server, backend_of(server) as backend:
        async with aclosing(backend.generate(ask())) as chunks:
            assert (await anext(chunks)).text == "The"
        async with asyncio.timeout(5):
            await server.cancelled.wait()


async def test_cancelling_a_waiting_answer_closes_the_connection() -> None:
    async with FakeOllama(hangs_after=0) as server, backend_of(server) as backend:
        await backend.models()
        task = asyncio.create_task(answer(backend, ask()))
        async with asyncio.timeout(5):
            await server.asked("/api/generate")
            task.cancel()
            await server.cancelled.wait()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_silent_server_is_given_up() -> None:
    server = FakeOllama(hangs_after=1)
    async with server, backend_of(server, read_timeout_s=0.1) as backend:
        with pytest.raises(TimedOut, match=r"did not answer in time"):
            await answer(backend, ask())


async def test_missing_ollama_is_told_with_a_remedy_and_noticed_when_it_comes() -> None:
    async with FakeOllama() as server:
        pass  # from here on its port is known, and nobody listens there
    clock = FakeClock()
    backend = OllamaBackend(OllamaConfig(url=server.url), clock=clock, log=log)
    remedy = (
        f"cannot connect to Ollama at {server.url}; start it with `ollama serve` or set "
        "plugins.ollama.url"
    )
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await backend.models()
        assert caught.value.message == remedy
    with pytest.raises(Unavailable, match="cannot connect to Ollama at"):
        await answer(backend, ask())
    async with server:
        clock.now += 5
        assert len(await backend.models()) == 1
    clock.now += 5
    with pytest.raises(Unavailable, match="cannot connect to Ollama at"):
        await backend.models()
    with pytest.raises(Unavailable, match="cannot connect to Ollama at"):
        await answer(backend, ask())
    await backend.close()


async def test_requests_that_come_together_look_once() -> None:
    async with FakeOllama() as server, backend_of(server) as backend:
        await asyncio.gather(*(backend.models() for _ in range(5)))
    assert [r.path for r in server.requests] == ["/api/tags", "/api/ps", "/api/show"]


async def test_model_is_described_once_until_it_changes() -> None:
    clock = FakeClock()
    async with FakeOllama() as server:
        backend = OllamaBackend(OllamaConfig(url=server.url), clock=clock, log=log)
        await backend.models()
        clock.now += 5
        await backend.models()
        await backend.close()
    assert [r.path for r in server.requests] == [
        "/api/tags",
        "/api/ps",
        "/api/show",
        "/api/tags",
        "/api/ps",
    ]


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (400, b'{"error":"option \\"x\\" is wrong"}', InvalidParams, 'option "x" is wrong'),
        (401, b'{"error":"unauthorized"}', Denied, "unauthorized"),
        (429, b'{"error":"slow down"}', Busy, "slow down"),
        (500, b'{"error":"model requires more system memory"}', Unavailable, "more system memory"),
        (502, b"<html>bad gateway</html>", Unavailable, "bad gateway"),
        (500, b"", Unavailable, "HTTP status 500"),
        (500, b'{"error":{"message":"wrong"}}', Unavailable, "Ollama: wrong"),
        (200, b"not json\n", ProtocolError, "invalid JSON"),
        (200, b"[1]\n", ProtocolError, "not a JSON object"),
        (200, b'{"response":1}\n', ProtocolError, "not a string"),
    ],
)
async def test_every_error_answer_becomes_the_right_error(
    status: int, body: bytes, error: type[AitorrentError], text: str
) -> None:
    async with saying(status, body) as server, backend_of(server) as backend:
        with pytest.raises(error, match=text):
            await answer(backend, ask())


async def test_endless_line_is_cut() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.send(200, b"x" * 9 * 2**20, "application/x-ndjson")

    async with HttpServer(handler) as server, backend_of(server) as backend:
        with pytest.raises(ProtocolError, match="over 8388608 bytes"):
            await answer(backend, ask())


def test_options_have_ollamas_names_and_leave_out_the_unset() -> None:
    assert options(SamplingParams()) == {}
    assert options(SamplingParams(temperature=0, top_k=0, seed=0)) == {
        "temperature": 0,
        "top_k": 0,
        "seed": 0,
    }


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:11434", "http://", "http://x:99999"])
def test_bad_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        OllamaConfig(url=url)


def test_httpx_is_not_imported_before_an_ollama_was_seen() -> None:
    code = "import sys, aitorrent_ollama.plugin; sys.exit('httpx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


keys = st.sampled_from(
    ["response", "message", "thinking", "done", "done_reason", "context", "eval_count"]
)


@settings(max_examples=examples(150))
@given(st.dictionaries(keys, json_values))
@example({"response": "\ud800"})
def test_any_line_is_a_chunk_or_an_error(line: dict[str, Any]) -> None:
    with suppress(ProtocolError, Unavailable):
        part = AnswerReader(5).read(line)
        (part.text + part.thinking).encode()


@settings(max_examples=examples(100))
@given(st.binary(max_size=100))
def test_any_bytes_are_a_line_or_a_protocol_error(raw: bytes) -> None:
    assert isinstance(error_in_body(raw).message, str)
    with suppress(ProtocolError):
        assert isinstance(json_object(raw, "Ollama"), dict)


def test_raw_prompt_asks_ollama_for_no_template() -> None:
    assert "raw" not in request_body(ask(), None)[1]
    assert request_body(ask().model_copy(update={"raw": True}), None)[1]["raw"] is True
