"""The Ollama backend: models and answers of one Ollama server."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from aitorrent_ollama.config import OllamaConfig
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Clock,
    GenerateRequest,
    ModelView,
    NotFound,
    ProtocolError,
    SamplingParams,
    Unavailable,
)
from aitorrentd.api.fields import whole_or
from aitorrentd.api.models.served import ServedModels

if TYPE_CHECKING:
    from aitorrent_ollama.connection import OllamaClient

# Requests that come together share one look at the model list.
_FRESH_S: Final = 2.0
_SHOW_TIMEOUT_S: Final = 5.0
_MAX_SHOWN: Final = 256
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def options(params: SamplingParams) -> dict[str, Any]:
    """Sampling parameters under Ollama's names (docs/modelfile.md)."""
    named = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": params.seed,
        "num_predict": params.max_tokens,
        "stop": list(params.stop) or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def request_body(
    request: GenerateRequest, keep_alive: str | int | None
) -> tuple[str, dict[str, Any]]:
    """The path and the body that ask for a streamed answer."""
    body: dict[str, Any] = {"model": request.model}
    if request.messages is not None:
        path = "/api/chat"
        body["messages"] = [{"role": m.role, "content": m.content} for m in request.messages]
    else:
        path = "/api/generate"
        body["prompt"] = request.prompt
        if request.raw:
            body["raw"] = True
        if request.params.context is not None:
            body["context"] = list(request.params.context)
    body["stream"] = True
    if chosen := options(request.params):
        body["options"] = chosen
    if keep_alive is not None:
        body["keep_alive"] = keep_alive
    return path, body


def chunk(line: dict[str, Any], max_tokens: int | None) -> Chunk:
    """A line of `/api/generate` or `/api/chat` as a chunk.

    Raises:
        ProtocolError: neither of the two.
    """
    message = line.get("message")
    text = message.get("content", "") if isinstance(message, dict) else line.get("response", "")
    if not isinstance(text, str):
        raise ProtocolError("Ollama sent a line whose text is not a string")
    # JSON may escape half of a surrogate pair, which is no text that can be sent on.
    text = text.encode("utf-8", "replace").decode()
    if line.get("done") is not True:
        return Chunk(text)
    tokens = whole_or(line, "eval_count", 0)
    reason = line.get("done_reason")
    if reason not in (None, "", "stop", "length", "load", "unload"):
        raise Unavailable(f"Ollama ended the answer with the reason {str(reason)[:64]!r}")
    # Servers before 0.3 give no reason; then the count tells.
    is_cut = reason == "length" or (not reason and max_tokens is not None and tokens >= max_tokens)
    context = line.get("context")
    is_context = isinstance(context, list) and all(
        isinstance(i, int) and 0 <= i < 2**32 for i in context
    )
    return Chunk(
        text,
        done=True,
        reason="length" if is_cut else "stop",
        prompt_tokens=whole_or(line, "prompt_eval_count", 0),
        completion_tokens=tokens,
        context=tuple(context or ()) if is_context else None,
        extra={k: line[k] for k in _DURATIONS if isinstance(line.get(k), int)},
    )


def view(tag: dict[str, Any], context_length: int | None) -> ModelView:
    """A model of `/api/tags`."""
    details = tag.get("details")
    details = details if isinstance(details, dict) else {}
    size = tag.get("size")
    parts = [details.get("parameter_size"), details.get("quantization_level")]
    return ModelView(
        name=tag["name"],
        backend="ollama",
        size_bytes=size if isinstance(size, int) else None,
        family=str(details.get("family") or ""),
        context_length=context_length,
        detail=" ".join(str(part) for part in parts if part),
    )


def context_length(shown: dict[str, Any]) -> int | None:
    """The context length in an answer of `/api/show`: `<architecture>.context_length`."""
    facts = shown.get("model_info")
    if not isinstance(facts, dict):
        return None
    length = facts.get(f"{facts.get('general.architecture')}.context_length")
    return length if isinstance(length, int) and length > 0 else None


class OllamaBackend:
    """Answers by Ollama. It works as soon as Ollama does, and says so when it does not."""

    def __init__(self, config: OllamaConfig, *, clock: Clock, log: logging.Logger) -> None:
        self._config = config
        self._log = log
        self._client: OllamaClient | None = None
        self._context_lengths: dict[str, int | None] = {}
        self._models = ServedModels(
            f"Ollama at {config.url}",
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
        """Why the last look at Ollama failed, or None."""
        return self._models.failure

    async def close(self) -> None:
        """End all connections."""
        if self._client is not None:
            await self._client.close()

    async def models(self) -> Sequence[ModelView]:
        """Models that Ollama has now, as far as the configuration allows them."""
        return await self._models.views()

    async def _look(self) -> Sequence[ModelView]:
        client = await self._connected()
        tags = [tag for tag in await client.tags() if self._is_allowed(tag["name"])]
        return [view(tag, await self._length(client, tag)) for tag in tags]

    def _is_allowed(self, model: str) -> bool:
        allowed = self._config.models
        return allowed is None or model in allowed or model.removesuffix(":latest") in allowed

    async def _length(self, client: OllamaClient, tag: dict[str, Any]) -> int | None:
        # A model's digest changes with its content, so its length need be asked only once.
        key = f"{tag['name']}@{tag.get('digest', '')}"
        if key not in self._context_lengths:
            if len(self._context_lengths) >= _MAX_SHOWN:
                self._context_lengths.clear()
            try:
                async with asyncio.timeout(_SHOW_TIMEOUT_S):
                    self._context_lengths[key] = context_length(await client.show(tag["name"]))
            except (AitorrentError, TimeoutError) as e:
                self._log.debug("Ollama does not describe %s: %r", tag["name"], e)
                return None
        return self._context_lengths[key]

    async def _connected(self) -> OllamaClient:
        """The client, made once somebody listens: httpx costs memory that a node without Ollama
        should not pay."""
        if self._client is None:
            await self._probe()
            # Importing takes longer than the event loop may block.
            module = await asyncio.to_thread(importlib.import_module, "aitorrent_ollama.connection")
            made: OllamaClient = module.OllamaClient(
                self._config.url,
                connect_timeout_s=self._config.connect_timeout_s,
                read_timeout_s=self._config.read_timeout_s,
            )
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
                f"no Ollama at {self._config.url}; "
                "start it with `ollama serve` or set plugins.ollama.url"
            ) from None
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Ollama's answer. Closing the iterator closes the connection, which stops Ollama."""
        if not self._is_allowed(request.model):
            raise NotFound(f"the model {request.model!r} is not in plugins.ollama.models")
        client = await self._connected()
        path, body = request_body(request, self._config.keep_alive)
        async with aclosing(client.lines(path, body)) as lines:
            async for line in lines:
                part = chunk(line, request.params.max_tokens)
                yield part
                if part.done:
                    return
        raise Unavailable("Ollama closed the stream before its answer ended")
