"""Answers of models over HTTP, streamed or whole.

A stream begins with its first token, or after a second: an error before that has its own status.
A client that leaves ends the generation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.anthropic.errors import error_body, in_words
from aitorrent_gateway.anthropic.requests import Asked, asked
from aitorrent_gateway.anthropic.shapes import PING, Identity, MessageStream, whole
from aitorrent_gateway.core.answers import ahead, generated
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.models import named
from aitorrentd.api import AitorrentError, Chunk, GenerateRequest, Inference, InvalidParams
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.errors import fault_of
from aitorrentd.api.faces.streaming import Stream

COUNT_S: Final = 0.5
"How long a stream whose first token takes its time waits for the length of the prompt."


async def messages(request: Request, inference: Inference) -> App:
    """POST /v1/messages."""
    want = asked(json_object(await request.body()))
    want = replace(want, request=await named(want.request, inference))
    identity = Identity(f"msg_{secrets.token_hex(12)}", want.request.model)
    try:
        if not want.is_stream:
            return await _whole(want, identity, inference)
        events = _events(want, identity, inference, request.scope["aitorrent.request_id"])
        await anext(events)  # raises what is wrong so far
        return Stream(events, headers=want.headers)
    except AitorrentError as e:
        raise in_words(e) from e


async def count_tokens(request: Request, inference: Inference) -> App:
    """POST /v1/messages/count_tokens."""
    want = asked(json_object(await request.body()))
    try:
        count = await inference.count_tokens(want.request)
    except AitorrentError as e:
        raise in_words(e) from e
    return JSONResponse({"input_tokens": count}, headers=dict(want.headers))


async def _generated(request: GenerateRequest, inference: Inference) -> AsyncGenerator[Chunk]:
    """The answer's chunks. Agents turn thinking off for every model; a backend that cannot do that
    is asked again without, and what its model thinks is not shown."""
    try:
        async with aclosing(generated(request, inference)) as chunks:
            async for chunk in chunks:
                yield chunk
            return
    except InvalidParams as e:
        if request.params.think is not False or e.data.get("params") != ["think"]:
            raise
    params = request.params.model_copy(update={"think": None})
    request = request.model_copy(update={"params": params})
    async with aclosing(generated(request, inference)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _whole(want: Asked, identity: Identity, inference: Inference) -> JSONResponse:
    async with aclosing(_generated(want.request, inference)) as chunks:
        found = [chunk async for chunk in chunks]
    made = whole(
        identity, found, shows_thinking=want.shows_thinking, stops=want.request.params.stop
    )
    return JSONResponse(made, headers=dict(want.headers))


async def _prompt_tokens(
    batch: Sequence[Chunk], request: GenerateRequest, inference: Inference
) -> int:
    """The length of the prompt, if a stream can begin with it: the first piece has it, or the first
    token takes so long that there is time to ask; else 0."""
    if batch:
        return max(chunk.prompt_tokens for chunk in batch)
    with suppress(AitorrentError, TimeoutError):
        async with asyncio.timeout(COUNT_S):
            return await inference.count_tokens(request)
    return 0


async def _events(
    want: Asked, identity: Identity, inference: Inference, ident: str
) -> AsyncGenerator[bytes]:
    """The stream's bytes, after an empty piece that tells that there is an answer."""
    stream = MessageStream(
        identity, shows_thinking=want.shows_thinking, stops=want.request.params.stop
    )
    async with ahead(_generated(want.request, inference)) as pieces:
        batch = await pieces.batch()
        yield b""
        begun = stream.first(await _prompt_tokens(batch, want.request, inference))
        try:
            while True:
                events = [begun, *map(stream.piece, batch)]
                last = batch[-1] if batch else Chunk("")
                if last.done:
                    yield b"".join([*events, stream.last(last)])
                    return
                yield b"".join(events) or PING
                begun = b""
                batch = await pieces.batch()
        except AitorrentError as e:
            yield b"event: error\ndata: " + error_body(fault_of(in_words(e)), ident) + b"\n\n"
