"""What servers and proxies do with connections: reuse, redirect, compress, keep for nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any, Final

import pytest

from aitorrentd.api import (
    AitorrentError,
    Busy,
    GenerateRequest,
    Message,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.relays import client
from tests.support.servers.http_server import HttpServer, Reply, Request
from tests.support.servers.relays import answer
from tests.unit.ollama.test_ollama_backend import backend_of as ollama_of
from tests.unit.openai.test_openai_backend import backend_of as openai_of
from tests.unit.relays.test_answer_streams import DONE, said

ASKED: Final = GenerateRequest(model="m", messages=(Message(role="user", content="hi"),))
WHOLE: Final = said("Hel") + said("lo", "stop") + DONE
MODELS: Final = json.dumps({"data": [{"id": "m"}]}).encode()


def head(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sending(*answers: bytes) -> HttpServer:
    """A server that sends these bytes, one answer per request; an empty one closes instead."""
    left = list(answers)

    async def handler(request: Request, reply: Reply) -> None:
        if raw := left.pop(0):
            reply.writer.write(raw)
            await reply.writer.drain()
        else:
            reply.break_off()

    return HttpServer(handler)


JSON: Final = "Content-Type: application/json"
SSE: Final = "Content-Type: text/event-stream"


async def test_idle_connection_that_the_server_closes_costs_no_answer() -> None:
    listed, told = head("200 OK", JSON, body=MODELS), head("200 OK", SSE, body=WHOLE)
    async with sending(listed, b"", told) as server, openai_of(server) as backend:
        await backend.models()
        assert "".join(c.text for c in await answer(backend, ASKED)) == "Hello"
    assert len(server.requests) == 3


async def test_server_that_is_no_longer_asked_says_so() -> None:
    server = client.HttpServer(
        "Ollama",
        "http://127.0.0.1:9",
        refused=lambda status, start, body: Unavailable("refused"),
        absent=Unavailable,
        connect_timeout_s=1,
        read_timeout_s=1,
    )
    await server.close()
    with pytest.raises(Unavailable, match="its plugin is stopping"):
        await server.fetch("GET", "/api/tags", max_bytes=10)


async def test_server_that_closes_a_new_connection_is_not_asked_again() -> None:
    async with sending(b"") as server, openai_of(server) as backend:
        with pytest.raises(Unavailable, match="closed the connection early"):
            await answer(backend, ASKED)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "header", "kind", "says"),
    [
        ("429 Too Many Requests", "Retry-After: 20", Busy, "; retry in 20 s"),
        ("429 X", "Retry-After: Fri, 27 Nov 2026 12:00:00 GMT", Busy, "; retry after Fri, 27 Nov"),
        ("503 X", "Retry-After: 5", Unavailable, "; retry in 5 s"),
        ("302 Found", "Location: https://sso.example.org/login", Unavailable, "https://sso.exam"),
        ("308 X", "Location: https://llm.example.org/v1/", Unavailable, "; it redirects to https:"),
        ("404 X", "Location: /x", AitorrentError, "HTTP status 404$"),
    ],
)
async def test_advice_in_the_headers_of_a_refusal_is_told(
    status: str, header: str, kind: type[AitorrentError], says: str
) -> None:
    async with sending(head(status, header)) as server, openai_of(server) as backend:
        with pytest.raises(kind, match=says):
            await answer(backend, ASKED)


async def test_login_page_after_a_redirect_of_ollama_is_named() -> None:
    page = head("302 Found", "Location: /login", body=b"<html><title>Found</title></html>")
    async with sending(page) as server, ollama_of(server) as backend:
        with pytest.raises(Unavailable, match="Ollama: Found; it redirects to /login"):
            await answer(backend, ASKED)


async def test_compressed_stream_is_read_and_a_broken_one_is_told() -> None:
    packed = gzip.compress(WHOLE)
    good = head("200 OK", SSE, "Content-Encoding: gzip", body=packed)
    bad = head("200 OK", SSE, "Content-Encoding: gzip", body=WHOLE)
    async with sending(good, bad) as server, openai_of(server) as backend:
        assert "".join(c.text for c in await answer(backend, ASKED)) == "Hello"
        with pytest.raises(ProtocolError, match="cannot be decompressed"):
            await answer(backend, ASKED)


async def keeps_alive(request: Request, reply: Reply) -> None:
    if request.path.endswith("chat"):
        await reply.start("application/x-ndjson")
        piece = b"\n"
    else:
        await reply.start("text/event-stream")
        piece = b": PROCESSING\n\n"
    while True:
        await reply.part(piece)
        await asyncio.sleep(0.01)  # the pace of the server


@pytest.mark.parametrize("relay", [openai_of, ollama_of])
async def test_keepalives_without_end_are_not_waited_for_without_end(relay: Any) -> None:
    async with HttpServer(keeps_alive) as server, relay(server, token_timeout_s=0.2) as backend:
        with pytest.raises(TimedOut, match=r"sent no text for 0\.2 s \(token_timeout_s\)"):
            await answer(backend, ASKED)
        async with asyncio.timeout(5):
            await server.cancelled.wait()


async def test_pause_after_a_reason_with_every_piece_does_not_end_the_answer() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.start("text/event-stream")
        await reply.part(said("H", "stop") + said("el", "stop"))
        await asyncio.sleep(0.2)  # longer than the rest of an answer may take
        await reply.part(said("lo", "stop") + DONE)
        await reply.end()

    async with HttpServer(handler) as server, openai_of(server, rest_s=0.05) as backend:
        chunks = await answer(backend, ASKED)
    assert "".join(c.text for c in chunks) == "Hello"
    assert chunks[-1].reason == "stop"


async def test_connection_reset_after_the_final_piece_harms_nothing() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        await reply.start("text/event-stream")
        await reply.part(said("Hel") + said("lo", "stop"))
        reply.writer.transport.abort()

    async with HttpServer(handler) as server, openai_of(server) as backend:
        chunks = await answer(backend, ASKED)
    assert ("".join(c.text for c in chunks), chunks[-1].reason) == ("Hello", "stop")
