"""An answer that is sent piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from aitorrentd.api.faces.asgi import Message, Receive, Send

EVENTS: Final = b"text/event-stream; charset=utf-8"
"Server-sent events."


class Stream:
    """An ASGI application that sends what a generator yields.

    Unlike Starlette's StreamingResponse it always closes the generator, also when the client left
    between two pieces: the work behind it ends at once, not when memory is next collected.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        media_type: bytes = EVENTS,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._pieces = pieces
        self._headers = [(b"content-type", media_type), (b"x-accel-buffering", b"no")]
        self._headers += [
            (k.encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()
        ]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer."""
        async with aclosing(self._pieces):
            await send(
                {"type": "http.response.start", "status": 200, "headers": list(self._headers)}
            )
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
