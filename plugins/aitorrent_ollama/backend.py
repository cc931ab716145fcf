"""The Ollama backend: models and answers of one Ollama server."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aitorrent_ollama.answers import AnswerReader
from aitorrent_ollama.config import OllamaConfig
from aitorrent_ollama.models import Shown, context_in_use, view
from aitorrent_ollama.requests import embed_body, request_body
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Clock,
    Embeddings,
    EmbedRequest,
    GenerateRequest,
    ModelView,
    NotFound,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.models.features import Feature
from aitorrentd.api.relays.pacing import paced
from aitorrentd.api.relays.served import Served, ServedModels
from aitorrentd.api.relays.truncation import text_bytes, truncation

if TYPE_CHECKING:
    from aitorrent_ollama.connection import OllamaClient

# Simultaneous requests share one query of the model list.
_FRESH_S: Final = 2.0
_SHOW_TIMEOUT_S: Final = 5.0
_MAX_SHOWN: Final = 256
_LONG_BYTES: Final = 1024
"Shorter prompts fit every context in use, unless the request asks for a smaller one."
_UNKNOWN: Final = Shown()
_FEATURES: Final[tuple[Feature, ...]] = (
    "context",
    "continues",
    "embed",
    "format",
    "images",
    "logprobs",
    "num_ctx",
    "repeat_last_n",
    "think",
    "tools",
)


class OllamaBackend:
    """Answers from Ollama; usable whenever Ollama is, and reports when it is not."""

    def __init__(
        self, config: OllamaConfig, *, clock: Clock, log: logging.Logger, node: str = ""
    ) -> None:
        self._config = config
        self._log = log
        self._node = node
        self._client: OllamaClient | None = None
        self._shown: dict[str, Shown] = {}
        self._models = ServedModels(
            f"Ollama at {config.url}",
            config.url,
            self._look,
            fresh_s=_FRESH_S,
            retry_s=_FRESH_S,
            clock=clock,
            log=log,
        )

    @property
    def name(self) -> str:
        """`ollama`."""
        return "ollama"

    @property
    def failure(self) -> AitorrentError | None:
        """Why the last query to Ollama failed, or None."""
        return self._models.failure

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    def features(self) -> frozenset[Feature]:
        """What Ollama's API has; `context` only with a prompt."""
        return frozenset(_FEATURES)

    async def models(self) -> Sequence[ModelView]:
        """Ollama's current models, restricted to those that the configuration allows."""
        return await self._models.views()

    async def _look(self) -> Served:
        client = await self._connected()
        tags = [tag for tag in await client.tags() if self._is_allowed(tag["name"])]
        loaded = await self._loaded(client) if tags else {}
        answering, embedding = list[ModelView](), list[ModelView]()
        for tag in tags:
            shown = await self._describe(client, tag)
            context = context_in_use(shown, loaded.get(tag["name"]), self._config.num_ctx)
            found = view(tag, shown, context)
            answering += [found] if shown.can_answer else []
            embedding += [found] if shown.can_embed else []
        return Served(answering, embedding)

    async def embedding_models(self) -> Sequence[ModelView]:
        """As `models`, for those that Ollama says are made for embeddings."""
        return await self._models.embedders()

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The vectors by `/api/embed`, of which Ollama normalises each to the length 1."""
        self._check_allowed(request.model)
        client = await self._connected()
        try:
            async with asyncio.timeout(self._config.token_timeout_s):
                return await client.embed(
                    embed_body(request, self._config.keep_alive, self._config.num_ctx),
                    len(request.texts),
                )
        except TimeoutError:
            limit_s = self._config.token_timeout_s
            raise TimedOut(f"Ollama did not send vectors within {limit_s:g} s") from None

    async def load(self, model: str) -> None:
        """As KeepsModels, by Ollama."""
        await self._keep(model, None)

    async def unload(self, model: str) -> None:
        """As KeepsModels, by Ollama, which answers before the model's answers have ended."""
        await self._keep(model, 0)

    async def keep(self, model: str, idle_s: float | None) -> None:
        """As KeepsModels, by Ollama."""
        await self._keep(model, -1 if idle_s is None else idle_s)

    async def _keep(self, model: str, keep_alive: float | str | None) -> None:
        self._check_allowed(model)
        client = await self._connected()
        if keep_alive is None:
            keep_alive = self._config.keep_alive
        try:
            async with asyncio.timeout(self._config.token_timeout_s):
                await client.keep(model, keep_alive)
        except TimeoutError:
            limit_s = self._config.token_timeout_s
            raise TimedOut(f"Ollama did not load {model} within {limit_s:g} s") from None

    def _check_allowed(self, model: str) -> None:
        if not self._is_allowed(model):
            raise NotFound(f"the model {model!r} is not in plugins.ollama.models")

    async def _loaded(self, client: OllamaClient) -> dict[str, int]:
        """The context of each model in memory; Ollama before 0.5.13 does not report it."""
        try:
            async with asyncio.timeout(_SHOW_TIMEOUT_S):
                rows = await client.loaded()
        except (AitorrentError, TimeoutError) as e:
            self._log.debug("Ollama does not report loaded models: %r", e)
            return {}
        lengths = ((row.get("name"), row.get("context_length")) for row in rows)
        return {n: size for n, size in lengths if isinstance(n, str) and type(size) is int}

    def _is_allowed(self, model: str) -> bool:
        allowed = self._config.models
        return allowed is None or model in allowed or model.removesuffix(":latest") in allowed

    async def _describe(self, client: OllamaClient, tag: dict[str, Any]) -> Shown:
        # A model's digest changes with its content, so one query per digest suffices.
        key = f"{tag['name']}@{tag.get('digest', '')}"
        if key not in self._shown:
            if len(self._shown) >= _MAX_SHOWN:
                self._shown.clear()
            try:
                async with asyncio.timeout(_SHOW_TIMEOUT_S):
                    self._shown[key] = Shown.of(await client.show(tag["name"]))
            except (AitorrentError, TimeoutError) as e:
                self._log.debug("Ollama's /api/show failed for %s: %r", tag["name"], e)
                return _UNKNOWN
        return self._shown[key]

    async def _connected(self) -> OllamaClient:
        """The client, created once Ollama is reachable: a node without Ollama should not pay for
        the memory of the HTTP library."""
        if self._client is None:
            await self._probe()
            # The import takes longer than the event loop may block.
            module = await asyncio.to_thread(importlib.import_module, "aitorrent_ollama.connection")
            made: OllamaClient = module.OllamaClient(
                self._config.url,
                connect_timeout_s=self._config.connect_timeout_s,
                read_timeout_s=self._config.read_timeout_s,
                node=self._node,
            )
            if self._client is None:  # else another request was faster
                self._client = made
        return self._client

    async def _probe(self) -> None:
        parts = urlsplit(self._config.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, TimeoutError):
            raise Unavailable(
                f"cannot connect to Ollama at {self._config.url}; start it with `ollama serve` "
                "or set plugins.ollama.url"
            ) from None
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream Ollama's answer. Closing the iterator disconnects, which stops Ollama."""
        return paced(self._answer(request), self._config.token_timeout_s, "Ollama")

    async def _answer(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self._check_allowed(request.model)
        client = await self._connected()
        path, body = request_body(request, self._config.keep_alive, self._config.num_ctx)
        reader = AnswerReader(
            request.params.max_tokens,
            is_empty=not text_bytes(request),
            logprobs=bool(request.params.logprobs),
            tools="tools" in body,
        )
        async with aclosing(client.lines(path, body)) as lines:
            async for line in lines:
                part = reader.read(line)
                if part.done:
                    yield await self._judged(client, request, part)
                    return
                if part.text or part.thinking or part.logprobs:
                    yield part
        yield await self._judged(client, request, reader.finish())

    async def _judged(self, client: OllamaClient, request: GenerateRequest, last: Chunk) -> Chunk:
        """The last chunk, with a warning if Ollama truncated the prompt."""
        sent, context = text_bytes(request), request.params.num_ctx or self._config.num_ctx
        if sent >= _LONG_BYTES:
            loaded = await self._loaded(client)
            names = (request.model, f"{request.model}:latest")
            context = next((loaded[name] for name in names if name in loaded), context)
        warning = truncation("Ollama", sent, last.prompt_tokens, context, remedy="raise num_ctx")
        return replace(last, warning="; ".join(filter(None, (last.warning, warning))))
