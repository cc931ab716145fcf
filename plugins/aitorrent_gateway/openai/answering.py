"""Answers of models over HTTP, streamed or whole.

A stream begins with its first token, or after a second: an error before that has its own status.
A client that leaves ends the generation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.bodies import json_object
from aitorrent_gateway.openai import requests
from aitorrent_gateway.openai.errors import room_left, translated
from aitorrent_gateway.openai.requests import Asked
from aitorrent_gateway.openai.shapes import (
    DONE,
    KEEP_ALIVE,
    ChatShape,
    Identity,
    Shape,
    TextShape,
    failure,
)
from aitorrentd.api import AitorrentError, Chunk, Clock, GenerateRequest, Inference, Unavailable
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream
from aitorrentd.api.tasks import beside

HEADERS_S: Final = 1.0
"How long a stream's headers wait for the first piece."
KEEP_ALIVE_S: Final = 10.0
"A stream without a token for so long sends a comment."
_AHEAD: Final = 256
"Pieces that wait for a slow client; then the generation waits."


async def chat(request: Request, inference: Inference, clock: Clock) -> App:
    """POST /v1/chat/completions."""
    asked = requests.chat(json_object(await request.body()))
    return await _answer(asked, ChatShape, inference, clock)


async def completions(request: Request, inference: Inference, clock: Clock) -> App:
    """POST /v1/completions."""
    asked = requests.completion(json_object(await request.body()))
    return await _answer(asked, TextShape, inference, clock)


async def _answer(asked: Asked, kind: type[Shape], inference: Inference, clock: Clock) -> App:
    ident = kind.prefix + secrets.token_hex(12)
    identity = Identity(ident, int(clock.time()), asked.request.model or "default")
    shape = kind(identity, with_usage=asked.with_usage)
    headers = {"x-aitorrent-ignored": ", ".join(asked.ignored)} if asked.ignored else {}
    if not asked.is_stream:
        return JSONResponse(await _whole(asked, shape, inference), headers=headers)
    events = _events(asked, shape, inference)
    await anext(events)  # raises what is wrong so far
    return Stream(events, headers=headers)


async def _whole(asked: Asked, shape: Shape, inference: Inference) -> dict[str, Any]:
    text, thinking = [], []
    async with aclosing(_generated(asked.request, inference)) as chunks:
        async for chunk in chunks:
            text.append(chunk.text)
            thinking.append(chunk.thinking)
            if chunk.done:
                return shape.whole("".join(text), "".join(thinking), chunk)
    raise Unavailable("the answer ended without a reason")


async def _events(asked: Asked, shape: Shape, inference: Inference) -> AsyncGenerator[bytes]:
    """The stream's bytes, after an empty piece that tells that there is an answer."""
    async with _pieces(asked.request, inference) as pieces:
        batch = await pieces.batch(HEADERS_S)
        yield b""
        begun = shape.first()
        try:
            while True:
                events = [begun, *map(shape.piece, batch)]
                last = batch[-1] if batch else None
                if last is not None and last.done:
                    events.append(shape.last(last))
                    if asked.with_usage:
                        events.append(shape.usage(last))
                    yield b"".join([*events, DONE])
                    return
                yield b"".join(events) or KEEP_ALIVE
                begun = b""
                batch = await pieces.batch(KEEP_ALIVE_S)
        except AitorrentError as e:
            yield failure(e)


class _Pieces:
    """The chunks of an answer, which is generated ahead of its reader."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Chunk | None] = asyncio.Queue(_AHEAD)
        "None wakes the reader: the answer ended, or there was nothing for a while."
        self.task: asyncio.Task[None]

    def wake(self, _: object = None) -> None:
        """Let a waiting reader look again."""
        if not self.queue.full():
            self.queue.put_nowait(None)

    async def batch(self, wait_s: float) -> list[Chunk]:
        """All that is there; after `wait_s` without anything, an empty list.

        Raises:
            AitorrentError: why there is no more.
        """
        queue, found = self.queue, list[Chunk]()
        if queue.empty() and not self.task.done():
            # Cheaper than a timeout, for something that happens for each token.
            timer = asyncio.get_running_loop().call_later(wait_s, self.wake)
            try:
                item = await queue.get()
            finally:
                timer.cancel()
        else:
            item = None if queue.empty() else queue.get_nowait()
        while item is not None:
            found.append(item)
            if item.done or queue.empty():
                return found
            item = queue.get_nowait()
        if not found and self.task.done() and queue.empty():
            await self.task  # raises what ended it
            raise Unavailable("the answer ended without a reason")
        return found


@asynccontextmanager
async def _pieces(request: GenerateRequest, inference: Inference) -> AsyncIterator[_Pieces]:
    pieces = _Pieces()
    async with beside(_fill(pieces.queue, request, inference), "gateway: answer") as pieces.task:
        pieces.task.add_done_callback(pieces.wake)
        yield pieces


async def _fill(
    queue: asyncio.Queue[Chunk | None], request: GenerateRequest, inference: Inference
) -> None:
    async with aclosing(_generated(request, inference)) as chunks:
        async for chunk in chunks:
            await queue.put(chunk)
            if chunk.done:
                return


async def _generated(request: GenerateRequest, inference: Inference) -> AsyncGenerator[Chunk]:
    """The answer. A `max_tokens` beyond the model's context is lowered, once, to what has room:
    agents send 32,000 to every model."""
    may_lower = True
    while True:
        chunks = inference.generate(request)
        try:
            async for chunk in chunks:
                if may_lower and not chunk.notice:
                    may_lower = False
                yield chunk
            return
        except AitorrentError as e:
            room = room_left(e) if may_lower else None
            if room is None:
                raise translated(e) from e
            may_lower = False
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        params = request.params.model_copy(update={"max_tokens": room})
        request = request.model_copy(update={"params": params})
