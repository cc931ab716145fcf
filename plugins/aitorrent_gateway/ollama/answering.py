"""Answers of models to Ollama's clients, line by line or whole.

A stream begins with its first token, or after a second: an error before that has its own status. A
client that leaves ends the generation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

from aitorrent_gateway.core.answers import ahead, generated
from aitorrent_gateway.core.bodies import json_object
from aitorrent_gateway.ollama import names, requests
from aitorrent_gateway.ollama.keeping import FIELD, Kept, Memory
from aitorrent_gateway.ollama.requests import Asked
from aitorrent_gateway.ollama.shapes import NDJSON, Shape, Timing, line, when
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Clock,
    GenerateRequest,
    Inference,
    InvalidParams,
    NotFound,
    Unavailable,
)
from aitorrentd.api.faces.asgi import App
from aitorrentd.api.faces.streaming import Stream

IGNORED: Final = "x-aitorrent-ignored"


async def chat(request: Request, memory: Memory, clock: Clock) -> App:
    """POST /api/chat."""
    return await _answer(request, requests.chat, memory, clock, is_chat=True)


async def generate(request: Request, memory: Memory, clock: Clock) -> App:
    """POST /api/generate."""
    return await _answer(request, requests.generate, memory, clock, is_chat=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in one of Ollama's shapes."""

    request: GenerateRequest
    model: str
    "As the client names it."
    shape: Shape
    inference: Inference
    clock: Clock
    asked_s: float
    kept: Kept | None = None
    "The model, if the client may say how long it stays in memory."
    keep_s: float = 0.0

    def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer, after which the model stays in memory as the client wants it; errors as for
        `_chunks`."""
        chunks = self._chunks()
        return chunks if self.kept is None else self.kept.kept(chunks, self.keep_s)

    async def _chunks(self) -> AsyncGenerator[Chunk]:
        """The answer. Parameters that a backend refuses, and that ask for nothing, are left out.

        Raises:
            AitorrentError: as `Inference.generate`, with Ollama's text for a model that is missing.
        """
        request = self.request
        untagged = request.model.removesuffix(names.LATEST)
        while True:
            has_begun = False
            try:
                async with aclosing(generated(request, self.inference)) as chunks:
                    async for chunk in chunks:
                        has_begun = has_begun or not chunk.notice
                        yield chunk
                return
            except NotFound as e:
                # No list has a model that cannot answer now, so its tag is still there.
                if has_begun or untagged in ("", request.model) or untagged.endswith(names.LATEST):
                    raise names.missing(self.model, e.message) from None
                request = request.model_copy(update={"model": untagged})
            except InvalidParams as e:
                if has_begun:
                    raise
                try:
                    request = requests.harmless(request, e.data.get("params"))
                except ValueError:
                    raise names.unsupported(self.model, e) from None

    async def whole(self) -> dict[str, Any]:
        """An answer that is not streamed."""
        found, began_s = list[Chunk](), None
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                if began_s is None and not chunk.notice:
                    began_s = self.clock.monotonic()
                found.append(chunk)
        return self.shape.whole(found, self._timing(began_s), when(self.clock.time()))

    async def lines(self) -> AsyncGenerator[bytes]:
        """The stream's bytes, after an empty piece that tells that there is an answer."""
        began_s, lines = None, b""
        async with ahead(self.chunks()) as pieces:
            batch = await pieces.batch()
            yield b""
            try:
                while True:
                    if began_s is None and any(not chunk.notice for chunk in batch):
                        began_s = self.clock.monotonic()
                    now = when(self.clock.time())
                    for chunk in batch:
                        lines += self.shape.piece(chunk, now)
                    if batch and batch[-1].done:
                        yield lines + self.shape.last(batch[-1], self._timing(began_s), now)
                        return
                    yield lines or self.shape.empty(now)
                    lines, batch = b"", await pieces.batch()
            except AitorrentError as e:
                yield lines + line({"error": e.message})

    def _timing(self, began_s: float | None) -> Timing:
        now = self.clock.monotonic()
        return Timing(self.asked_s, now if began_s is None else began_s, now)


async def _answer(
    request: Request,
    read: Callable[[dict[str, Any]], Asked],
    memory: Memory,
    clock: Clock,
    *,
    is_chat: bool,
) -> App:
    asked = read(json_object(await request.body()))
    shape = Shape(asked.model, is_chat=is_chat)
    if asked.request is None:
        return await _load(asked, shape, memory, clock)
    inference = memory.inference
    model = await names.resolved(inference, asked.model)
    kept = await _kept(asked, memory)
    headers = _headers(asked, kept)
    answer = Answer(
        asked.request.model_copy(update={"model": model}),
        asked.model,
        shape,
        inference,
        clock,
        clock.monotonic(),
        kept,
        asked.keep_s or 0.0,
    )
    if not asked.is_stream:
        return JSONResponse(await answer.whole(), headers=headers)
    lines = answer.lines()
    await anext(lines)  # raises what is wrong so far
    return Stream(lines, NDJSON, headers=headers)


async def _load(asked: Asked, shape: Shape, memory: Memory, clock: Clock) -> App:
    """Answer a request without a prompt, which loads the model, or unloads it."""
    if asked.keep_s == 0:
        memory.check()
        await (await memory.of(asked.model)).unload()
        value, headers = shape.loaded("unload", when(clock.time())), dict(asked.headers)
    else:
        await (await memory.of(asked.model)).load()
        kept = await _kept(asked, memory)
        if kept is not None and asked.keep_s is not None:
            await kept.keep(asked.keep_s)
        value, headers = shape.loaded("load", when(clock.time())), _headers(asked, kept)
    if asked.is_stream:
        return Stream(_one(line(value)), NDJSON, headers=headers)
    return JSONResponse(value, headers=headers)


async def _kept(asked: Asked, memory: Memory) -> Kept | None:
    """The model, if the client says how long it stays in memory, may say so, and it matters."""
    if asked.keep_s is None or not memory.may_decide:
        return None
    try:
        kept = await memory.of(asked.model)
    except (NotFound, Unavailable):  # the answer tells why
        return None
    return kept if kept.backend is not None else None


def _headers(asked: Asked, kept: Kept | None) -> dict[str, str]:
    """Of the answer: what had no effect."""
    headers = dict(asked.headers)
    if asked.keep_s is not None and kept is None:
        headers[IGNORED] = ", ".join(filter(None, (headers.get(IGNORED), FIELD)))
    return headers


async def _one(piece: bytes) -> AsyncGenerator[bytes]:
    yield piece
