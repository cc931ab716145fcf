"""The backend of one OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from aitorrent_openai.chunks import AnswerReader
from aitorrent_openai.config import ServerConfig
from aitorrent_openai.models import can_chat, can_embed, view
from aitorrent_openai.requests import (
    CHAT,
    COMPLETIONS,
    chat_body,
    completion_body,
    embed_body,
    without,
)
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Clock,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    InvalidParams,
    ModelView,
    NotFound,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.models.features import Feature
from aitorrentd.api.relays.pacing import paced
from aitorrentd.api.relays.served import Served, ServedModels
from aitorrentd.api.relays.truncation import text_bytes, truncation

if TYPE_CHECKING:
    from aitorrent_openai.connection import OpenaiClient

# Avoids querying a paid service's list with every prompt.
_FRESH_S: Final = 30.0
_RETRY_S: Final = 2.0
# Parameters that `without` can remove, one per attempt.
_MAX_ATTEMPTS: Final = 3
_MAX_REFUSED: Final = 8
REST_S: Final = 15.0
"""Time for token counts that may follow the end of an answer; for a server that sends a reason with
every piece, also the longest pause after the first one."""
_NOTHING: Final = Chunk("")
_END: Final[dict[str, Any]] = {}
_FEATURES: Final[tuple[Feature, ...]] = (
    "continues",
    "embed",
    "format",
    "images",
    "logit_bias",
    "logprobs",
    "think",
    "tool_choice",
    "parallel_tool_calls",
    "tools",
)


class OpenaiBackend:
    """Answers from one server."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Clock,
        log: logging.Logger,
        rest_s: float = REST_S,
        node: str = "",
    ) -> None:
        self._node = node
        self._config = config
        self._rest_s = rest_s
        self._client: OpenaiClient | None = None
        self._models = ServedModels(
            f"{self.name} at {config.url}",
            config.url,
            self._look,
            fresh_s=_FRESH_S,
            retry_s=_RETRY_S,
            clock=clock,
            log=log,
        )
        # Learned from rejections: that /completions is missing, and which parameters to omit.
        self._has_completions = config.completions
        self._refused: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        """`openai:<server>`."""
        return f"openai:{self._config.name}"

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> OpenaiClient:
        if self._client is None:
            # The import of httpx takes longer than the event loop may block.
            module = await asyncio.to_thread(importlib.import_module, "aitorrent_openai.connection")
            made: OpenaiClient = module.OpenaiClient(self._config, node=self._node)
            if self._client is None:
                self._client = made
        return self._client

    def features(self) -> frozenset[Feature]:
        """What the OpenAI API has; not every server supports all of it."""
        return frozenset(_FEATURES)

    async def models(self) -> Sequence[ModelView]:
        """The server's models, restricted to those that the configuration allows."""
        return await self._models.views()

    async def embedding_models(self) -> Sequence[ModelView]:
        """As `models`, for those that seem to be made for embeddings."""
        return await self._models.embedders()

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The vectors by `/embeddings`."""
        self._check_allowed(request.model)
        body = embed_body(request)
        client = await self._connected()
        try:
            async with asyncio.timeout(self._config.token_timeout_s):
                return await client.embed(body, len(request.texts))
        except TimeoutError:
            limit_s = self._config.token_timeout_s
            raise TimedOut(f"{self.name} did not send vectors within {limit_s:g} s") from None

    def _check_allowed(self, model: str) -> None:
        if self._config.models is not None and model not in self._config.models:
            raise NotFound(f"the model {model!r} is not in the models of {self.name}")

    async def _look(self) -> Served:
        allowed = self._config.models
        try:
            rows = await (await self._connected()).models()
        except NotFound:
            # Some servers have no /models; then the configured models are used.
            if allowed is None:
                raise
            return Served([ModelView(name, self.name) for name in allowed])
        embedding = [
            view(row, self.name)
            for row in rows
            if can_embed(row) and (allowed is None or row["id"] in allowed)
        ]
        wanted = (row["id"] in allowed if allowed is not None else can_chat(row) for row in rows)
        answering = [
            view(row, self.name) for row, is_wanted in zip(rows, wanted, strict=True) if is_wanted
        ]
        return Served(answering, embedding)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the server's answer. A prompt becomes a user message, or goes to `/completions` if
        it is raw, or if the configuration says so and the server supports it for the model.
        Closing the iterator closes the connection."""
        return paced(self._judged(request), self._config.token_timeout_s, self.name)

    async def _judged(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The answer, with a warning in its last chunk if the server truncated the prompt."""
        async with aclosing(self._either(request)) as answer:
            async for chunk in answer:
                if chunk.done:
                    cut = truncation(
                        self.name,
                        text_bytes(request),
                        chunk.prompt_tokens,
                        remedy="give the server a longer context",
                    )
                    chunk = replace(chunk, warning="; ".join(filter(None, (chunk.warning, cut))))
                yield chunk

    async def _either(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._check_allowed(request.model)
        client = await self._connected()
        if request.messages is None and (request.raw or self._has_completions):
            has_spoken = False
            try:
                async with aclosing(
                    self._answer(client, COMPLETIONS, completion_body(request))
                ) as answer:
                    async for chunk in answer:
                        has_spoken = True
                        yield chunk
                return
            except AitorrentError as e:
                if request.raw or has_spoken or not self._is_without_completions(e):
                    raise
        async with aclosing(self._answer(client, CHAT, chat_body(request))) as answer:
            async for chunk in answer:
                yield chunk

    def _is_without_completions(self, error: AitorrentError) -> bool:
        status, code = error.data.get("status"), error.data.get("error_code")
        if status in (405, 501) or (status == 404 and not error.data.get("param") and not code):
            self._has_completions = False
            return True
        # A chat model on a server with both endpoints: "This is a chat model", with param "model".
        return status == 404 and "chat model" in error.message

    async def _answer(
        self, client: OpenaiClient, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        for param, message in self._refused:
            body = without(body, param, message) or body
        has_spoken = False
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                async with aclosing(self._stream(client, path, body)) as chunks:
                    async for chunk in chunks:
                        has_spoken = True
                        yield chunk
                return
            except InvalidParams as e:
                param = str(e.data.get("param", ""))
                changed = without(body, param, e.message)
                if has_spoken or changed is None or attempt == _MAX_ATTEMPTS:
                    raise
                if (param, e.message) not in self._refused:
                    self._refused = [*self._refused, (param, e.message)][-_MAX_REFUSED:]
                body = changed

    async def _stream(
        self, client: OpenaiClient, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        reader = AnswerReader(
            self.name,
            str(body["model"]),
            logprobs=body.get("logprobs") not in (None, False),
            tools="tools" in body and body.get("tool_choice") != "none",
        )
        said_done = False
        stray: list[bytes] = []
        async with aclosing(client.events(path, body, stray)) as events:
            while True:
                try:
                    # Some servers keep a connection open after the end.
                    async with asyncio.timeout(self._rest_s if reader.is_finished else None):
                        event = await anext(events, _END)
                except (Unavailable, TimedOut, ProtocolError, TimeoutError) as e:
                    # A finished answer lacks only counts, unless this is a reported error.
                    if not reader.is_finished or "status" in getattr(e, "data", {}):
                        raise
                    break
                said_done = event is None
                if event is None or event is _END:
                    break
                chunk = reader.read(event)
                if chunk != _NOTHING:
                    yield chunk
        yield reader.finish(said_done=said_done, stray=b" ".join(stray))
