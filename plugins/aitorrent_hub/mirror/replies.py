"""Answers to clients of the mirror, over ASGI."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aitorrent_hub.upstream.headers import Pairs
from aitorrentd.api import AitorrentError, NotFound, TimedOut
from aitorrentd.api.faces.asgi import Aborted, Receive, Send
from aitorrentd.api.tasks import beside


async def reply(send: Send, status: int, headers: Pairs, body: bytes = b"") -> None:
    """A whole answer."""
    headers = [pair for pair in headers if pair[0].lower() != "content-length"]
    await start(send, status, [*headers, ("Content-Length", str(len(body)))])
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, status: int, headers: Pairs) -> None:
    """Status and headers."""
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def end(send: Send) -> None:
    """The end of the body."""
    await send({"type": "http.response.body", "body": b""})


async def explain(send: Send, status: int, message: str, headers: Pairs | None = None) -> None:
    """An error, in the form of the Hub's."""
    shown = "".join(c if 32 <= ord(c) < 127 else "?" for c in message)[:500]
    told = [("Content-Type", "application/json"), ("X-Error-Message", shown), *(headers or [])]
    names = [name.lower() for name, _ in told]
    told = [pair for at, pair in enumerate(told) if pair[0].lower() not in names[at + 1 :]]
    await reply(send, status, told, json.dumps({"error": message}).encode())


async def fail(send: Send, error: AitorrentError) -> None:
    """What prevents an answer."""
    status = 404 if isinstance(error, NotFound) else 504 if isinstance(error, TimedOut) else 503
    await explain(send, status, error.message)


async def stream(
    send: Send,
    receive: Receive,
    status: int,
    headers: Pairs,
    first: bytes,
    parts: AsyncGenerator[bytes, None],
) -> None:
    """An answer whose body comes in parts, of which the first is here. Ends when the client leaves.

    Raises:
        Aborted: the body cannot be completed.
    """
    await start(send, status, headers)
    async with beside(_gone(receive), "hub: client") as gone, aclosing(parts):
        await send({"type": "http.response.body", "body": first, "more_body": True})
        try:
            async for part in parts:
                if gone.done():
                    raise Aborted
                await send({"type": "http.response.body", "body": part, "more_body": True})
        except AitorrentError:
            raise Aborted from None
        await end(send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
