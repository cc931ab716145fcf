"""Small files come over HTTP and are what their Git blob id says."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable

import pytest

from aitorrentd.api.models import small_files
from aitorrentd.api.models.small_files import fetch_small, git_sha1
from aitorrentd.api.models.weights import SmallFile, WebSource
from aitorrentd.errors import (
    AitorrentError,
    Denied,
    NotFound,
    ProtocolError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from tests.support.servers.http_server import HttpServer, Reply, Request

CONTENT = b'{"model_type": "llama"}\n'
TOKEN = "Bearer hf_secret"


def wanted(*urls: str, size: int = len(CONTENT)) -> SmallFile:
    sources = tuple(WebSource(url, {"Authorization": TOKEN}) for url in urls)
    return SmallFile(git_sha1(CONTENT), size, "config.json", sources)


def test_git_blob_id_is_git_s() -> None:
    found = subprocess.run(
        ["git", "hash-object", "--stdin"], input=CONTENT, capture_output=True, check=True
    )
    assert git_sha1(CONTENT) == found.stdout.decode().strip()


async def send(request: Request, reply: Reply) -> None:
    await reply.send(200, CONTENT, "application/json")


async def test_first_source_that_has_it_serves_it_with_its_headers() -> None:
    async def other(request: Request, reply: Reply) -> None:
        await reply.send(200, b"{}", "application/json")

    async with HttpServer(other) as wrong, HttpServer(send) as right:
        assert await fetch_small(wanted(wrong.url, right.url)) == CONTENT
        assert right.requests[0].headers["authorization"] == TOKEN


async def test_token_does_not_follow_a_redirect_to_another_host() -> None:
    async with HttpServer(send) as storage:
        target = storage.url.replace("127.0.0.1", "localhost")

        async def redirect(request: Request, reply: Reply) -> None:
            head = f"HTTP/1.1 302 X\r\nLocation: {target}/x\r\nContent-Length: 0\r\n\r\n"
            reply.started = True
            reply.writer.write(head.encode())

        async with HttpServer(redirect) as hub:
            assert await fetch_small(wanted(hub.url)) == CONTENT
        assert "authorization" not in storage.requests[0].headers


def status(code: int) -> Callable[[Request, Reply], Awaitable[None]]:
    async def answer(request: Request, reply: Reply) -> None:
        await reply.send(code, CONTENT, "text/plain")

    return answer


async def endless(request: Request, reply: Reply) -> None:
    await reply.start("application/json")
    while True:
        await reply.part(bytes(2**16))


async def silence(request: Request, reply: Reply) -> None:
    await asyncio.Event().wait()


async def cut_off(request: Request, reply: Reply) -> None:
    await reply.start("application/json")
    await reply.part(CONTENT[:5])
    reply.break_off()


@pytest.mark.parametrize(
    ("handler", "kind", "text"),
    [
        (status(401), Denied, "gated or private"),
        (status(403), Denied, "gated or private"),
        (status(404), NotFound, "answered 404"),
        (status(429), Unavailable, "answered 429"),
        (status(500), Unavailable, "answered 500"),
        (endless, TooLarge, "sends more than"),
        (silence, TimedOut, "sent nothing of config.json"),
        (cut_off, Unavailable, "cannot fetch config.json from 127.0.0.1"),
    ],
)
async def test_source_that_fails_is_explained_without_its_address(
    handler: Callable[[Request, Reply], Awaitable[None]],
    kind: type[AitorrentError],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(small_files, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(small_files, "MAX_BYTES", 2**18)
    async with HttpServer(handler) as server:
        with pytest.raises(kind, match=text) as caught:
            await fetch_small(wanted(f"{server.url}/o/n?signature=secret"))
    assert "secret" not in caught.value.message and "hf_" not in caught.value.message


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        (wanted(), NotFound),
        (wanted("http://[::1"), Unavailable),
        (wanted("ftp://127.0.0.1/x"), Unavailable),
        (wanted("http://127.0.0.1:1/x"), Unavailable),
        (wanted("http://127.0.0.1:1/x", size=2**40), TooLarge),
    ],
)
async def test_file_that_cannot_be_asked_for(file: SmallFile, kind: type[AitorrentError]) -> None:
    with pytest.raises(kind):
        await fetch_small(file)


async def test_other_content_is_refused() -> None:
    async def other(request: Request, reply: Reply) -> None:
        await reply.send(200, b"{}", "application/json")

    async with HttpServer(other) as server:
        with pytest.raises(ProtocolError, match=r"127\.0\.0\.1 sent another config\.json"):
            await fetch_small(wanted(server.url))
