"""A client of the OpenAI HTTP API: models, chat completions, completions.

The plugin imports this module when a server is configured.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from aitorrent_openai.config import ServerConfig
from aitorrent_openai.sse import EventDecoder
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    InvalidParams,
    NotFound,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.models.relay import HttpServer, json_object

_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_MAX_ERROR_CHARS: Final = 1024


def describe(body: bytes) -> tuple[str, str, str]:
    """(message, code, param) of an error body `{"error": {message, type, param, code}}`."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")[:_MAX_ERROR_CHARS].strip(), "", ""
    error = value.get("error", value) if isinstance(value, dict) else value
    if not isinstance(error, dict):
        return str(error)[:_MAX_ERROR_CHARS], "", ""
    # FastAPI servers put the reason of a refused body into "detail".
    message = error.get("message") or error.get("detail") or ""
    code = error.get("code") or error.get("type") or ""
    return str(message)[:_MAX_ERROR_CHARS], str(code)[:64], str(error.get("param") or "")[:64]


def refusal(server: str, status: int, body: bytes) -> AitorrentError:
    """The error for an HTTP status and its body."""
    message, code, param = describe(body)
    text = f"{server}: {message or f'HTTP status {status}'}"
    facts = {"status": status, "error_code": code, "param": param}
    if status in (401, 403):
        hint = f"; check the api_key of server {server.removeprefix('openai:')!r}"
        return Denied(text + hint, **facts)
    if status == 404:
        return NotFound(text, **facts)
    if status == 429:
        if code == "insufficient_quota":
            return Denied(text, **facts)
        return Busy(text, **facts)
    if status == 408:
        return TimedOut(text, **facts)
    if 400 <= status < 500:
        return InvalidParams(text, **facts)
    return Unavailable(text, **facts)


class OpenaiClient:
    """Connections to one server; close it with `close`."""

    def __init__(self, config: ServerConfig) -> None:
        self.name = name = f"openai:{config.name}"
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        self._http = HttpServer(
            name,
            config.url,
            refused=lambda status, answer, _request: refusal(name, status, answer),
            absent=lambda reason: Unavailable(f"{name}: nobody answers at {config.url} ({reason})"),
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=config.read_timeout_s,
            headers=headers,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.close()

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server lists (`GET /models`)."""
        rows = (await self._http.fetch("GET", "/models", max_bytes=_MAX_BODY_BYTES)).get("data")
        if not isinstance(rows, list):
            raise ProtocolError(f"{self.name} did not list models")
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]

    async def events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The chunks that the server streams for a request; None for the final `[DONE]`.

        Closing the iterator closes the connection, upon which the server stops its work.

        Raises:
            AitorrentError: an error status, an error event, or no connection.
        """
        decoder = EventDecoder()
        async with aclosing(self._http.stream("POST", path, body)) as parts:
            async for part in parts:
                for data in decoder.feed(part):
                    if data.strip() == b"[DONE]":
                        yield None
                        return
                    if not data.strip():
                        continue
                    event = json_object(data, self.name)
                    if event.get("error"):
                        raise refusal(self.name, 500, data)
                    yield event
