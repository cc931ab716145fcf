"""A client of the OpenAI HTTP API: models, chat completions, completions.

The plugin imports this module only if a server is configured.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, Final

from aitorrent_openai.bodies import BodyDecoder
from aitorrent_openai.config import ServerConfig
from aitorrent_openai.models import rows_of
from aitorrent_openai.sse import Event
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    Embeddings,
    InvalidParams,
    NotFound,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.relays.client import HttpServer, json_values
from aitorrentd.api.relays.reported_errors import ReportedError, error_in_body, reported_error
from aitorrentd.api.relays.vectors import embeddings

# With any status: xAI and Gemini say 400 for a wrong key, Mistral and OpenRouter for a model that
# they lack.
_KEY_CODES: Final = ("invalid_api_key", "authentication_error", "UNAUTHENTICATED")
_QUOTA_CODES: Final = ("insufficient_quota", "insufficient_credits", "billing_not_active")
_MODEL_CODES: Final = ("model_not_found", "invalid_model", "model_not_available")
# Other statuses from 400 to 499, such as 405 from a proxy, are not the request's fault: another
# backend may answer it.
_REQUEST_FAULTS: Final = (400, 413, 414, 415, 422, 431)
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_MAX_VECTOR_BYTES: Final = 64 * 1024 * 1024
"An answer with vectors: 2048 of 2048 dimensions take up to 50 MB in digits."
_DONE: Final = object()
"End-of-stream marker among JSON values."
# What stands between the values of events that lack the lines between them.
_BETWEEN: Final = {"data:": None, "[DONE]": _DONE, "[done]": _DONE}
_PINGS: Final = ("ping", "pong", "keepalive", "keep-alive", "heartbeat")
"Events, or their texts, that only keep the connection open."


def in_order(rows: object) -> object:
    """The vectors of a list of embeddings, by their `index`; servers that work in parallel send
    them in any order."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return rows
    indexes = [row.get("index") for row in rows]
    if sorted(i for i in indexes if type(i) is int) == list(range(len(rows))):
        rows = sorted(rows, key=lambda row: row["index"])
    return [row.get("embedding") for row in rows]


def refusal(server: str, status: int, error: ReportedError) -> AitorrentError:
    """The error for an HTTP status and its reported error."""
    message, code = error.message, error.code
    text = f"{server}: {message or f'HTTP status {status}'}"
    facts = {"status": status, "error_code": code, "param": error.param}
    if status in (401, 403) or code in _KEY_CODES or "API key not valid" in message:
        hint = f"; check the api_key of server {server.removeprefix('openai:')!r}"
        return Denied(text + hint, **facts)
    if status == 402 or code in _QUOTA_CODES:
        return Denied(text, **facts)
    if status == 404 or code in _MODEL_CODES:
        return NotFound(text, **facts)
    if status == 429:
        return Busy(text, **facts)
    if status in (408, 504):
        return TimedOut(text, **facts)
    if status in _REQUEST_FAULTS:
        return InvalidParams(text, **facts)
    return Unavailable(text, **facts)


class OpenaiClient:
    """Connections to one server; close it with `close`."""

    def __init__(self, config: ServerConfig, *, node: str = "") -> None:
        """`node` is this node's id, see `HttpServer`."""
        self.name = name = f"openai:{config.name}"
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        self._http = HttpServer(
            name,
            config.url,
            refused=lambda status, answer, _request: refusal(name, status, error_in_body(answer)),
            absent=lambda reason: Unavailable(f"{name}: cannot connect to {config.url} ({reason})"),
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=config.read_timeout_s,
            headers=headers,
            node=node,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server lists (`GET /models`), each with its `id`."""
        listed = await self._http.fetch("GET", "/models", max_bytes=_MAX_BODY_BYTES)
        rows = rows_of(listed)
        if not rows and (error := reported_error(listed)) is not None:
            raise refusal(self.name, error.status or 500, error)
        if rows is None:
            raise ProtocolError(f"{self.name} did not list models")
        return rows

    async def embed(self, body: Mapping[str, Any], count: int) -> Embeddings:
        """The vectors of `count` texts (`POST /embeddings`).

        Raises:
            ProtocolError: not one valid vector for each text.
        """
        answer = await self._http.fetch("POST", "/embeddings", body, max_bytes=_MAX_VECTOR_BYTES)
        if (error := reported_error(answer)) is not None:
            raise refusal(self.name, error.status or 500, error)
        rows = answer.get("data") if isinstance(answer, dict) else None
        usage = answer.get("usage") if isinstance(answer, dict) else None
        return embeddings(
            self.name,
            in_order(rows),
            count,
            usage.get("prompt_tokens") if isinstance(usage, dict) else 0,
        )

    async def events(
        self, path: str, body: Mapping[str, Any], stray: list[bytes]
    ) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The chunks that the server streams for a request; None for the final `[DONE]`.

        A non-streamed answer arrives as one chunk. `stray` collects non-event content. Closing the
        iterator closes the connection, which stops the server's work.

        Raises:
            AitorrentError: an error status, an error in any form, or no connection.
        """
        async with self._http.opened("POST", path, body) as answer:
            decoder = BodyDecoder(answer.content_type)
            async for part in answer.parts:
                for event in self._decoded(decoder.feed, part):
                    for chunk in self._chunks(event):
                        yield chunk
                        if chunk is None:
                            return
            for event in self._decoded(lambda _: decoder.end(), b""):
                for chunk in self._chunks(event):
                    yield chunk
                    if chunk is None:
                        return
            if decoder.stray:
                stray.append(decoder.stray)

    def _decoded(self, decode: Callable[[bytes], list[Event]], part: bytes) -> list[Event]:
        try:
            return decode(part)
        except ProtocolError as e:
            raise ProtocolError(f"{self.name} sent {e.message}") from None

    def _chunks(self, event: Event) -> Iterator[dict[str, Any] | None]:
        data = event.data.strip()
        if event.kind in ("error", "exception", "fatal"):
            told = error_in_body(data)
            if not told.message:
                told = ReportedError("the server reports an error and does not say which")
            raise refusal(self.name, told.status or 500, told)
        # Gateways wrap the comments of other servers into events.
        is_ping = event.kind in _PINGS or data.decode("latin-1").lower() in _PINGS
        if is_ping or not data or data.startswith(b":"):
            return
        for value in json_values(data, self.name, _BETWEEN):
            if value is None:  # some servers send null as a keepalive
                continue
            if value is _DONE or value == "[DONE]":
                yield None
                return
            if (error := reported_error(value)) is not None:
                raise refusal(self.name, error.status or 500, error)
            if not isinstance(value, dict):
                raise ProtocolError(f"{self.name} sent something that is not a JSON object")
            yield value
