"""A client of Ollama's HTTP API (Ollama, docs/api.md).

The plugin imports this module when an Ollama was seen, so that a node without one stays small.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    InvalidParams,
    NotFound,
    ProtocolError,
    Unavailable,
)
from aitorrentd.api.models.relay import HttpServer, json_object

# The last line of an answer carries the session's token ids, some hundred thousand at most.
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_ERROR_CHARS: Final = 1024


def not_running(url: str) -> Unavailable:
    """The error for an Ollama that is not there."""
    return Unavailable(
        f"no Ollama at {url}; start it with `ollama serve` or set plugins.ollama.url", url=url
    )


def refusal(status: int, text: str, model: str) -> AitorrentError:
    """The error for an HTTP status and the text of `{"error": …}`."""
    text = text[:_MAX_ERROR_CHARS].strip() or f"HTTP status {status}"
    if status == 404 and model:
        return NotFound(f"Ollama: {text}; get it with `ollama pull {model}`", model=model)
    if status in (429, 503):
        return Busy(f"Ollama: {text}")
    if status in (401, 403):
        return Denied(f"Ollama: {text}")
    if 400 <= status < 500 and status != 404:
        return InvalidParams(f"Ollama: {text}")
    return Unavailable(f"Ollama: {text}")


def error_text(body: bytes) -> str:
    """The text in an error body; a body that is no such JSON is the text itself."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, str) else json.dumps(value)


class OllamaClient:
    """Connections to one Ollama server; close it with `close`."""

    def __init__(self, url: str, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self._http = HttpServer(
            "Ollama",
            url,
            refused=lambda status, answer, request: refusal(
                status, error_text(answer), str(request.get("model", ""))
            ),
            absent=lambda reason: not_running(url),
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            # Ollama is on this machine or named on purpose: never by a proxy from the environment.
            use_proxy=False,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.close()

    async def tags(self) -> list[dict[str, Any]]:
        """The models that Ollama has (`GET /api/tags`), as it describes them."""
        answer = await self._http.fetch("GET", "/api/tags", max_bytes=_MAX_BODY_BYTES)
        models = answer.get("models")
        if not isinstance(models, list):
            raise ProtocolError("Ollama's /api/tags has no list of models")
        return [m for m in models if isinstance(m, dict) and isinstance(m.get("name"), str)]

    async def show(self, model: str) -> dict[str, Any]:
        """What Ollama knows about a model (`POST /api/show`)."""
        body = {"model": model}
        return await self._http.fetch("POST", "/api/show", body, max_bytes=_MAX_BODY_BYTES)

    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The NDJSON lines that Ollama streams for a request.

        Closing the iterator closes the connection, upon which Ollama stops its work.

        Raises:
            AitorrentError: an error status, an error line, a line too long, or no connection.
        """
        model = str(body.get("model", ""))
        buffer = bytearray()
        async with aclosing(self._http.stream("POST", path, body)) as parts:
            async for part in parts:
                buffer += part
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end]).strip()
                    del buffer[: end + 1]
                    if line:
                        yield _checked(line, model)
                if len(buffer) > _MAX_LINE_BYTES:
                    raise ProtocolError(f"Ollama sent a line of over {_MAX_LINE_BYTES} bytes")
        if buffer.strip():
            yield _checked(bytes(buffer), model)


def _checked(line: bytes, model: str) -> dict[str, Any]:
    value = json_object(line, "Ollama")
    if "error" in value:
        status = value.get("status", 500)
        raise refusal(status if isinstance(status, int) else 500, error_text(line), model)
    return value
