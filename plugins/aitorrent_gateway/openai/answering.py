"""Answers of models over HTTP, streamed or whole.

A stream begins with its first token, or after a second: an error before that has its own status.
A client that leaves ends the generation.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.answers import KEEP_ALIVE, Pieces, generated
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.core.models import named
from aitorrent_gateway.core.several import all_ahead
from aitorrent_gateway.openai import requests
from aitorrent_gateway.openai.errors import openai_error
from aitorrent_gateway.openai.requests import Asked
from aitorrent_gateway.openai.shapes import (
    DONE,
    ChatChoice,
    Identity,
    failure,
    usage_event,
    whole_answer,
)
from aitorrent_gateway.openai.text_shapes import TextChoice
from aitorrentd.api import AitorrentError, Chunk, Clock, Inference
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

# Fields of this node that OpenAI's clients know by another name.
NAMES: Final = {
    "continues": "continue_final_message",
    "format": "response_format",
    "think": "reasoning_effort",
    "images": "messages",
    "messages[].tool_calls": "messages",
}
Kind = type[ChatChoice] | type[TextChoice]
Numbered = tuple[int, Chunk]
"A choice's index, and a piece of it."


async def chat(request: Request, inference: Inference, clock: Clock) -> App:
    """POST /v1/chat/completions."""
    asked = requests.chat(json_object(await request.body()))
    return await _answer(asked, ChatChoice, inference, clock)


async def completions(request: Request, inference: Inference, clock: Clock) -> App:
    """POST /v1/completions."""
    asked = requests.completion(json_object(await request.body()))
    return await _answer(asked, TextChoice, inference, clock)


async def _answer(asked: Asked, kind: Kind, inference: Inference, clock: Clock) -> App:
    asked = replace(asked, request=await named(asked.request, inference))
    identity = Identity(
        kind.prefix + secrets.token_hex(12),
        int(clock.time()),
        asked.request.model,
        with_logprobs=bool(asked.request.params.logprobs),
    )
    try:
        if not asked.is_stream:
            whole = await _whole(asked, kind, identity, inference)
            return JSONResponse(whole, headers=asked.headers)
        events = _events(asked, kind, identity, inference)
        await anext(events)  # raises what is wrong so far
        return Stream(events, headers=asked.headers)
    except AitorrentError as e:
        raise openai_error(e, NAMES) from e


def _pieces(asked: Asked, inference: Inference) -> AbstractAsyncContextManager[Pieces[Numbered]]:
    sources = [partial(generated, each, inference) for each in asked.requests()]
    return all_ahead(sources, requests.MAX_CHOICES)


async def _whole(
    asked: Asked, kind: Kind, identity: Identity, inference: Inference
) -> dict[str, Any]:
    choices = [kind(identity, n, with_usage=False) for n in range(asked.answers)]
    lasts: dict[int, Chunk] = {}
    async with _pieces(asked, inference) as pieces:
        while len(lasts) < asked.answers:
            for index, chunk in await pieces.batch():
                choices[index].add(chunk)
                if chunk.done:
                    lasts[index] = chunk
    ends = [lasts[n] for n in range(asked.answers)]
    made = [choice.whole(last) for choice, last in zip(choices, ends, strict=True)]
    return whole_answer(kind.kind, identity, made, ends, asked.choices)


async def _events(
    asked: Asked, kind: Kind, identity: Identity, inference: Inference
) -> AsyncGenerator[bytes]:
    """The stream's bytes, after an empty piece that tells that there is an answer."""
    choices = [kind(identity, n, with_usage=asked.with_usage) for n in range(asked.answers)]
    lasts: dict[int, Chunk] = {}
    async with _pieces(asked, inference) as pieces:
        batch = await pieces.batch()
        yield b""
        events = [choice.first() for choice in choices]
        try:
            while True:
                for index, chunk in batch:
                    events.append(choices[index].piece(chunk))
                    if chunk.done:
                        events.append(choices[index].last(chunk))
                        lasts[index] = chunk
                if len(lasts) == asked.answers:
                    if asked.with_usage:
                        ends = [lasts[n] for n in range(asked.answers)]
                        events.append(usage_event(kind.chunk_kind, identity, ends, asked.choices))
                    yield b"".join([*events, DONE])
                    return
                yield b"".join(events) or KEEP_ALIVE
                events = []
                batch = await pieces.batch()
        except AitorrentError as e:
            yield failure(openai_error(e, NAMES))
