"""A client of the OpenAI HTTP API: models, chat completions, completions.

Only this module needs httpx; the plugin imports it when a server is configured.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx

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


def json_object(raw: bytes, server: str) -> dict[str, Any]:
    """`raw` as a JSON object.

    Raises:
        ProtocolError: it is none.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise ProtocolError(f"{server} sent something that is not JSON") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"{server} sent something that is not a JSON object")
    return value


class OpenaiClient:
    """Connections to one server; close it with `close`."""

    def __init__(self, config: ServerConfig) -> None:
        self.name = f"openai:{config.name}"
        self.url = config.url
        headers = {}
        if config.api_key is not None:
            headers["Authorization"] = f"Bearer {config.api_key.get_secret_value()}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(
                connect=config.connect_timeout_s, read=config.read_timeout_s, write=30.0, pool=10.0
            ),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=4),
        )

    async def close(self) -> None:
        """End all connections."""
        await self._http.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """The models that the server lists (`GET /models`)."""
        whole = bytearray()
        async with aclosing(self._exchange("GET", "/models", None)) as parts:
            async for part in parts:
                whole += part
                if len(whole) > _MAX_BODY_BYTES:
                    raise ProtocolError(f"{self.name} lists over {_MAX_BODY_BYTES} bytes of models")
        rows = json_object(bytes(whole), self.name).get("data")
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
        async with aclosing(self._exchange("POST", path, body)) as parts:
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

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncGenerator[bytes, None]:
        try:
            async with self._http.stream(method, self.url + path, json=body) as response:
                if response.status_code != 200:
                    raise refusal(self.name, response.status_code, await _start_of(response))
                async for part in response.aiter_bytes():
                    yield part
        except httpx.ConnectError as e:
            raise Unavailable(f"{self.name}: nobody answers at {self.url} ({e})") from None
        except httpx.TimeoutException:
            raise TimedOut(f"{self.name} at {self.url} did not answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            raise Unavailable(f"{self.name} broke off: {str(e) or type(e).__name__}") from None


async def _start_of(response: httpx.Response) -> bytes:
    start = bytearray()
    async for part in response.aiter_bytes():
        start += part
        if len(start) >= 65_536:
            break
    return bytes(start)
