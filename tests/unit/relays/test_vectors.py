"""Texts as vectors by servers: what is sent, and what is made of the answers."""

from __future__ import annotations

import json
import logging
import math
from array import array
from base64 import b64encode
from typing import Any

import pytest

from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import ServerConfig
from aitorrentd.api import (
    Embeddings,
    EmbedRequest,
    InvalidParams,
    NotFound,
    ProtocolError,
    TimedOut,
)
from aitorrentd.api.models.embeddings import vector
from aitorrentd.api.relays.vectors import embeddings
from tests.support.clocks import FakeClock
from tests.support.servers.http_server import HttpServer, Reply, Request
from tests.support.servers.relays import closed_after, saying

LOG = logging.getLogger("test.vectors")
TEXTS = EmbedRequest(model="e", texts=("a", "b"), dimensions=2)
RIGHT = Embeddings((vector([1.0, 0.5]), vector([0.25, -1.0])), 9)


def ollama(server: HttpServer, **settings: Any) -> OllamaBackend:
    return OllamaBackend(OllamaConfig(url=server.url, **settings), clock=FakeClock(), log=LOG)


def openai(server: HttpServer, **settings: Any) -> OpenaiBackend:
    config = ServerConfig(name="s", url=server.url, **settings)
    return OpenaiBackend(config, clock=FakeClock(), log=LOG)


async def test_ollama_embeds_and_never_cuts_off_silently() -> None:
    answer = {"embeddings": [[1, 0.5], [0.25, -1.0]], "prompt_eval_count": 9}
    async with (
        saying(200, json.dumps(answer).encode()) as server,
        closed_after(ollama(server, num_ctx=64, models=["e"])) as backend,
    ):
        assert await backend.embed(TEXTS) == RIGHT
        await backend.embed(TEXTS.model_copy(update={"truncate": True}))
        assert [request.path for request in server.requests] == ["/api/embed"] * 2
        first, second = (request.json() for request in server.requests)
        assert first["model"], first["input"] == ("e", ["a", "b"])
        assert (first["truncate"], first["dimensions"], first["options"]) == (
            False,
            2,
            {"num_ctx": 64},
        )
        assert second["truncate"] is True
        with pytest.raises(NotFound, match=r"plugins\.ollama\.models"):
            await backend.embed(TEXTS.model_copy(update={"model": "other"}))


async def test_ollama_lists_embedding_models_apart() -> None:
    able = {"chat:latest": ["completion"], "nomic:latest": ["embedding"], "old:latest": None}

    async def handler(request: Request, reply: Reply) -> None:
        if request.path == "/api/tags":
            await reply.json({"models": [{"name": name} for name in able]})
        elif request.path == "/api/show":
            await reply.json({"capabilities": able[request.json()["model"]]})
        else:
            await reply.json({"models": []})

    async with HttpServer(handler) as server, closed_after(ollama(server)) as backend:
        for _ in range(2):
            views = await backend.embedding_models()
            assert [view.name for view in views] == ["nomic:latest", "old:latest"]
        assert [view.name for view in await backend.models()] == ["chat:latest", "old:latest"]


async def test_openai_server_embeds_in_any_order_and_encoding() -> None:
    packed = b64encode(array("f", [0.25, -1.0]).tobytes()).decode()
    data = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [1, 0.5]}]
    answer = {"object": "list", "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}}
    async with (
        saying(200, json.dumps(answer).encode()) as server,
        closed_after(openai(server)) as backend,
    ):
        assert await backend.embed(TEXTS) == RIGHT
        (request,) = server.requests
        assert request.path == "/v1/embeddings"
        assert request.json() == {
            "model": "e",
            "input": ["a", "b"],
            "encoding_format": "float",
            "dimensions": 2,
        }
        # The API has no `truncate`: this server refuses what is too long.
        assert await backend.embed(TEXTS.model_copy(update={"truncate": True})) == RIGHT
        assert "truncate" not in server.requests[-1].json()


async def test_openai_server_lists_embedding_models_apart() -> None:
    rows = [
        {"id": "text-embedding-3-small"},
        {"id": "chat-model", "object": "model"},
        {"id": "bge-m3", "type": "embeddings"},
        {"id": "rerank-1", "type": "rerank"},
    ]
    async with (
        saying(200, json.dumps({"data": rows}).encode()) as server,
        closed_after(openai(server)) as backend,
    ):
        views = await backend.embedding_models()
        assert [view.name for view in views] == ["text-embedding-3-small", "bge-m3"]
        assert [view.name for view in await backend.models()] == ["chat-model"]


async def test_refusal_of_a_server_reaches_the_caller() -> None:
    body = json.dumps({"error": {"message": "the input has 9000 tokens"}}).encode()
    async with saying(400, body) as server, closed_after(openai(server)) as backend:
        with pytest.raises(InvalidParams, match="the input has 9000 tokens"):
            await backend.embed(TEXTS)
    body = json.dumps({"error": "the input length exceeds the context length"}).encode()
    async with saying(400, body) as server, closed_after(ollama(server)) as backend:
        with pytest.raises(InvalidParams, match="exceeds the context length"):
            await backend.embed(TEXTS)


async def test_server_that_hangs_fails_in_time() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await server.cancelled.wait()

    async with HttpServer(handler) as server:
        for make in (ollama, openai):
            async with closed_after(make(server, token_timeout_s=0.05)) as backend:
                with pytest.raises(TimedOut, match=r"did not send vectors within 0\.05 s"):
                    await backend.embed(TEXTS)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        [],
        [[1.0]],
        [[1.0], [1.0, 2.0]],
        [[1.0], []],
        [[1.0], [None]],
        [[1.0], [math.inf]],
        [[1.0], [1e39]],
        [[1.0], [True, "x"]],
        [[1.0], 3],
        [[1.0], "AAA"],
        [[1.0], [0.0] * 65_537],
    ],
)
def test_malformed_vectors_are_an_error_that_names_the_server(rows: object) -> None:
    with pytest.raises(ProtocolError, match="^srv sent "):
        embeddings("srv", rows, 2, 0)
