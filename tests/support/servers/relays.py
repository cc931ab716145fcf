"""Helpers for tests of backends that relay to an HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from aitorrentd.api import Backend, Chunk, GenerateRequest
from tests.support.servers.http_server import HttpServer, Reply, Request

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


class Closable(Protocol):
    """A backend with connections."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


@asynccontextmanager
async def closed_after(backend: C) -> AsyncIterator[C]:
    """The backend; its connections close with the block."""
    try:
        yield backend
    finally:
        await backend.close()


async def answer(backend: Backend, request: GenerateRequest) -> list[Chunk]:
    """The complete answer, within 10 s."""
    async with asyncio.timeout(10):
        return [c async for c in backend.generate(request)]


def saying(status: int, body: bytes) -> HttpServer:
    """A server that gives this response to every request."""

    async def handler(request: Request, reply: Reply) -> None:
        await reply.send(status, body, "application/json")

    return HttpServer(handler)
