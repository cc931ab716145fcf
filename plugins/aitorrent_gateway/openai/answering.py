"""Answers of models over HTTP, streamed or whole.

A stream begins with its first token, or after a second: an error before that has its own status.
A client that leaves ends the generation.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.answers import KEEP_ALIVE, ahead, generated
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.errors import translated
from aitorrent_gateway.openai import requests
from aitorrent_gateway.openai.requests import Asked
from aitorrent_gateway.openai.shapes import (
    DONE,
    ChatShape,
    Identity,
    Shape,
    TextShape,
    failure,
)
from aitorrentd.api import AitorrentError, Chunk, Clock, Inference
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

# Fields of this node that OpenAI's clients know by another name.
NAMES: Final = {"format": "response_format", "think": "reasoning_effort", "images": "messages"}


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
    try:
        if not asked.is_stream:
            return JSONResponse(await _whole(asked, shape, inference), headers=asked.headers)
        events = _events(asked, shape, inference)
        await anext(events)  # raises what is wrong so far
        return Stream(events, headers=asked.headers)
    except AitorrentError as e:
        raise translated(e, NAMES) from e


async def _whole(asked: Asked, shape: Shape, inference: Inference) -> dict[str, Any]:
    text, thinking, last = [], [], Chunk("")
    async with aclosing(generated(asked.request, inference)) as chunks:
        async for last in chunks:
            text.append(last.text)
            thinking.append(last.thinking)
    return shape.whole("".join(text), "".join(thinking), last)


async def _events(asked: Asked, shape: Shape, inference: Inference) -> AsyncGenerator[bytes]:
    """The stream's bytes, after an empty piece that tells that there is an answer."""
    async with ahead(generated(asked.request, inference)) as pieces:
        batch = await pieces.batch()
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
                batch = await pieces.batch()
        except AitorrentError as e:
            yield failure(translated(e, NAMES))
