"""A client of Ollama's HTTP API (Ollama, docs/api.md).

Only this module needs httpx; the plugin imports it when an Ollama was seen, so that a node without
one stays small.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx

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


def json_line(line: bytes) -> dict[str, Any]:
    """One line of a stream.

    Raises:
        ProtocolError: not a JSON object.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ProtocolError("Ollama sent a line that is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError("Ollama sent a line that is not a JSON object")
    return value


class OllamaClient:
    """Connections to one Ollama server; close it with `close`."""

    def __init__(self, url: str, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=httpx.Timeout(
                connect=connect_timeout_s, read=read_timeout_s, write=30.0, pool=10.0
            ),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=4),
            # Ollama is on this machine or named on purpose: never by a proxy from the environment.
            trust_env=False,
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def tags(self) -> list[dict[str, Any]]:
        """The models that Ollama has (`GET /api/tags`), as it describes them."""
        models = (await self._json("GET", "/api/tags", None)).get("models")
        if not isinstance(models, list):
            raise ProtocolError("Ollama's /api/tags has no list of models")
        return [m for m in models if isinstance(m, dict) and isinstance(m.get("name"), str)]

    async def show(self, model: str) -> dict[str, Any]:
        """What Ollama knows about a model (`POST /api/show`)."""
        return await self._json("POST", "/api/show", {"model": model})

    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        model = str(body.get("model", "")) if body else ""
        async with aclosing(self._exchange(method, path, body, model)) as parts:
            whole = bytearray()
            async for part in parts:
                whole += part
                if len(whole) > _MAX_BODY_BYTES:
                    raise ProtocolError(f"Ollama's {path} sent over {_MAX_BODY_BYTES} bytes")
        return json_line(bytes(whole))

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
        async with aclosing(self._exchange("POST", path, body, model)) as parts:
            async for part in parts:
                buffer += part
                while (end := buffer.find(b"\n")) >= 0:
                    line = bytes(buffer[:end]).strip()
                    del buffer[: end + 1]
                    if line:
                        yield self._checked(line, model)
                if len(buffer) > _MAX_LINE_BYTES:
                    raise ProtocolError(f"Ollama sent a line of over {_MAX_LINE_BYTES} bytes")
        if buffer.strip():
            yield self._checked(bytes(buffer), model)

    def _checked(self, line: bytes, model: str) -> dict[str, Any]:
        value = json_line(line)
        if "error" in value:
            status = value.get("status", 500)
            raise refusal(status if isinstance(status, int) else 500, error_text(line), model)
        return value

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, model: str
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with self._http.stream(method, path, json=body) as response:
                if response.status_code != 200:
                    text = error_text(await self._start_of(response))
                    raise refusal(response.status_code, text, model)
                async for part in response.aiter_bytes():
                    yield part
        except httpx.ConnectError:
            raise not_running(self.url) from None
        except httpx.TimeoutException as e:
            kind = "accept a connection" if isinstance(e, httpx.ConnectTimeout) else "answer"
            raise TimedOut(f"Ollama at {self.url} did not {kind} in time") from None
        except httpx.HTTPError as e:
            # RemoteProtocolError (it closed in the middle), ReadError (reset) and the like.
            raise Unavailable(
                f"Ollama at {self.url} broke off: {str(e) or type(e).__name__}"
            ) from None

    async def _start_of(self, response: httpx.Response) -> bytes:
        start = bytearray()
        async for part in response.aiter_bytes():
            start += part
            if len(start) >= 65_536:
                break
        return bytes(start)
