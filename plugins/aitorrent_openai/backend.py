"""The backend of one OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from aitorrent_openai.chunks import (
    CHAT,
    COMPLETIONS,
    AnswerReader,
    chat_body,
    completion_body,
    view,
    without,
)
from aitorrent_openai.config import ServerConfig
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Clock,
    GenerateRequest,
    InvalidParams,
    ModelView,
    NotFound,
)
from aitorrentd.api.models.served import ServedModels

if TYPE_CHECKING:
    from aitorrent_openai.connection import OpenaiClient

# A paid service's list is not asked for with every prompt.
_FRESH_S: Final = 30.0
_RETRY_S: Final = 2.0
# Parameters that `without` can take back, one per attempt.
_MAX_ATTEMPTS: Final = 3
_MAX_REFUSED: Final = 8


class OpenaiBackend:
    """Answers by one server."""

    def __init__(self, config: ServerConfig, *, clock: Clock, log: logging.Logger) -> None:
        self._config = config
        self._client: OpenaiClient | None = None
        self._models = ServedModels(
            f"{self.name} at {config.url}",
            self._look,
            fresh_s=_FRESH_S,
            retry_s=_RETRY_S,
            clock=clock,
            log=log,
        )
        # Learnt from refusals: that /completions is missing, and which parameters to leave out.
        self._has_completions = config.completions
        self._refused: list[tuple[str, str]] = []

    @property
    def name(self) -> str:
        """`openai:<server>`."""
        return f"openai:{self._config.name}"

    async def close(self) -> None:
        """End all connections."""
        if self._client is not None:
            await self._client.close()

    async def _connected(self) -> OpenaiClient:
        if self._client is None:
            # Importing httpx takes longer than the event loop may block.
            module = await asyncio.to_thread(importlib.import_module, "aitorrent_openai.connection")
            made: OpenaiClient = module.OpenaiClient(self._config)
            if self._client is None:
                self._client = made
        return self._client

    async def models(self) -> Sequence[ModelView]:
        """Models that the server lists, as far as the configuration allows them."""
        return await self._models.views()

    async def _look(self) -> Sequence[ModelView]:
        allowed = self._config.models
        try:
            rows = await (await self._connected()).models()
        except NotFound:
            # Some servers have no /models; then the configuration says what they have.
            if allowed is None:
                raise
            return [ModelView(name, self.name) for name in allowed]
        return [view(row, self.name) for row in rows if allowed is None or row["id"] in allowed]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """The server's answer. A prompt becomes a user's message; it goes to `/completions` when it
        is raw, or when the configuration wants that and the server has it for the model. Closing
        the iterator closes the connection."""
        if self._config.models is not None and request.model not in self._config.models:
            raise NotFound(f"the model {request.model!r} is not in the models of {self.name}")
        client = await self._connected()
        if request.messages is None and (request.raw or self._has_completions):
            try:
                async with aclosing(
                    self._answer(client, COMPLETIONS, completion_body(request))
                ) as answer:
                    async for chunk in answer:
                        yield chunk
                return
            except AitorrentError as e:
                if request.raw or not self._is_without_completions(e):
                    raise
        async with aclosing(self._answer(client, CHAT, chat_body(request))) as answer:
            async for chunk in answer:
                yield chunk

    def _is_without_completions(self, error: AitorrentError) -> bool:
        status, code = error.data.get("status"), error.data.get("error_code")
        if status in (405, 501) or (status == 404 and not error.data.get("param") and not code):
            self._has_completions = False
            return True
        # A chat model on a server that has both: "This is a chat model", with param "model".
        return status == 404 and "chat model" in error.message

    async def _answer(
        self, client: OpenaiClient, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        for param, message in self._refused:
            body = without(body, param, message) or body
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                async with aclosing(self._stream(client, path, body)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except InvalidParams as e:
                param = str(e.data.get("param", ""))
                changed = without(body, param, e.message)
                if changed is None or attempt == _MAX_ATTEMPTS:
                    raise
                if (param, e.message) not in self._refused:
                    self._refused = [*self._refused, (param, e.message)][-_MAX_REFUSED:]
                body = changed

    async def _stream(
        self, client: OpenaiClient, path: str, body: dict[str, Any]
    ) -> AsyncGenerator[Chunk, None]:
        reader = AnswerReader(self.name)
        said_done = False
        async with aclosing(client.events(path, body)) as events:
            async for event in events:
                if event is None:
                    said_done = True
                elif text := reader.read(event):
                    yield Chunk(text)
        yield reader.finish(said_done=said_done)
