"""Answers of /v1/responses over HTTP, streamed or whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.answers import KEEP_ALIVE, ahead, generated
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.models import named
from aitorrent_gateway.openai.errors import openai_error
from aitorrent_gateway.openai.responses.events import ResponseEvents
from aitorrent_gateway.openai.responses.requests import AskedResponse, response
from aitorrent_gateway.openai.responses.shapes import Json, ResponseIdentity, new_id
from aitorrentd.api import AitorrentError, Clock, Inference, Unavailable
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

# Fields of this node that clients of this path know by another name.
NAMES: Final = {
    "format": "text.format",
    "think": "reasoning.effort",
    "images": "input",
    "messages[].tool_calls": "input",
    "prompt": "input",
    "logprobs": "include",
    "max_tokens": "max_output_tokens",
}


async def responses(request: Request, inference: Inference, clock: Clock) -> App:
    """POST /v1/responses."""
    asked = response(json_object(await request.body()))
    asked = replace(asked, request=await named(asked.request, inference))
    identity = ResponseIdentity(new_id("resp"), int(clock.time()), asked.request.model, asked.echo)
    made = ResponseEvents(identity, asked.tools)
    try:
        if not asked.is_stream:
            whole = await _whole(asked, made, inference, clock)
            return JSONResponse(whole, headers=asked.headers)
        events = _events(asked, made, inference, clock)
        await anext(events)  # raises what is wrong so far
        return Stream(events, headers=asked.headers)
    except AitorrentError as e:
        raise openai_error(e, NAMES) from e


async def input_tokens(request: Request, inference: Inference) -> App:
    """POST /v1/responses/input_tokens."""
    asked = response(json_object(await request.body()))
    try:
        count = await inference.count_tokens(asked.request)
    except AitorrentError as e:
        raise openai_error(e, NAMES) from e
    found = {"object": "response.input_tokens", "input_tokens": count}
    return JSONResponse(found, headers=asked.headers)


async def _whole(
    asked: AskedResponse, made: ResponseEvents, inference: Inference, clock: Clock
) -> Json:
    async with aclosing(generated(asked.request, inference)) as chunks:
        async for chunk in chunks:
            made.piece(chunk)
            if chunk.done:
                return made.end(chunk, int(clock.time()))[1]
    raise Unavailable("the answer ended without a reason")


async def _events(
    asked: AskedResponse, made: ResponseEvents, inference: Inference, clock: Clock
) -> AsyncGenerator[bytes]:
    """The stream's bytes, after an empty piece that tells that there is an answer."""
    async with ahead(generated(asked.request, inference)) as pieces:
        batch = await pieces.batch()
        yield b""
        events = [made.begin()]
        try:
            while True:
                events += map(made.piece, batch)
                if batch and batch[-1].done:
                    end, _ = made.end(batch[-1], int(clock.time()))
                    yield b"".join([*events, end])
                    return
                yield b"".join(events) or KEEP_ALIVE
                events = []
                batch = await pieces.batch()
        except AitorrentError as e:
            yield made.fail(openai_error(e, NAMES))
