"""A client of Ollama's HTTP API (Ollama, docs/api.md).

The plugin imports this module only once it finds an Ollama server, to save memory without one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aitorrentd.api import (
    AitorrentError,
    Busy,
    Denied,
    Embeddings,
    InvalidParams,
    NotFound,
    ProtocolError,
    Unavailable,
)
from aitorrentd.api.relays.client import HttpServer, json_values
from aitorrentd.api.relays.documents import JsonDocuments, Lines
from aitorrentd.api.relays.reported_errors import MAX_ERROR_CHARS, error_in_body, reported_error
from aitorrentd.api.relays.vectors import embeddings

# The last line of an answer carries the session's token ids, up to some hundred thousand.
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024
_MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_MAX_VECTOR_BYTES: Final = 64 * 1024 * 1024
# Ollama says this with the status 400, or in the middle of an answer without a status.
_TOO_LONG: Final = re.compile(
    r"exceed\w* .*context|(longer|larger) than .*context|context .*exceeded", re.IGNORECASE
)
_BLANK: Final = b"\xef\xbb\xbf \t\r"


def not_running(url: str) -> Unavailable:
    """The error for an unreachable Ollama."""
    return Unavailable(
        f"cannot connect to Ollama at {url}; start it with `ollama serve` or set "
        "plugins.ollama.url",
        url=url,
    )


def refusal(status: int, text: str, model: str) -> AitorrentError:
    """The error for an HTTP status and the text of `{"error": …}`."""
    text = text[:MAX_ERROR_CHARS].strip() or f"HTTP status {status}"
    if _TOO_LONG.search(text):
        return InvalidParams(f"Ollama: {text}; shorten the prompt, or raise num_ctx")
    if status == 404 and model:
        return NotFound(f"Ollama: {text}; get it with `ollama pull {model}`", model=model)
    if status in (429, 503):
        return Busy(f"Ollama: {text}")
    if status in (401, 403):
        return Denied(f"Ollama: {text}")
    if status in (400, 413, 422):
        return InvalidParams(f"Ollama: {text}")
    return Unavailable(f"Ollama: {text}")


class OllamaClient:
    """Connections to one Ollama server; close it with `close`."""

    def __init__(
        self, url: str, *, connect_timeout_s: float, read_timeout_s: float, node: str = ""
    ) -> None:
        """`node` is this node's id, see `HttpServer`."""
        self._http = HttpServer(
            "Ollama",
            url,
            refused=lambda status, answer, request: refusal(
                status, error_in_body(answer).message, str(request.get("model", ""))
            ),
            absent=lambda reason: not_running(url),
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            node=node,
            # Ollama is local or configured explicitly: never use a proxy from the environment.
            use_proxy=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def tags(self) -> list[dict[str, Any]]:
        """Ollama's models (`GET /api/tags`), as it describes them."""
        models = (await self._fetch("GET", "/api/tags")).get("models", False)
        if models is None:  # an empty list, as Go encodes it
            return []
        if not isinstance(models, list):
            raise ProtocolError("Ollama's /api/tags has no list of models")
        # Some servers that imitate Ollama list a model twice, or only as `model`.
        rows: dict[str, dict[str, Any]] = {}
        for row in models:
            name = (row.get("name") or row.get("model")) if isinstance(row, dict) else None
            if isinstance(name, str) and name:
                rows.setdefault(name, {**row, "name": name})
        return list(rows.values())

    async def loaded(self) -> list[dict[str, Any]]:
        """The models in memory (`GET /api/ps`), with the context of each."""
        models = (await self._fetch("GET", "/api/ps")).get("models")
        return [m for m in models if isinstance(m, dict)] if isinstance(models, list) else []

    async def show(self, model: str) -> dict[str, Any]:
        """Ollama's description of a model (`POST /api/show`)."""
        return await self._fetch("POST", "/api/show", {"model": model})

    async def keep(self, model: str, keep_alive: float | str | None) -> None:
        """Load a model, and unload it after `keep_alive` (seconds, or a duration of Go) without
        use; 0 = now, -1 = never, None = as Ollama is set up. `POST /api/generate` without a
        prompt."""
        body: dict[str, Any] = {"model": model, "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        await self._fetch("POST", "/api/generate", body)

    async def embed(self, body: Mapping[str, Any], count: int) -> Embeddings:
        """The vectors of `count` texts (`POST /api/embed`).

        Raises:
            ProtocolError: not one valid vector for each text.
        """
        answer = await self._fetch("POST", "/api/embed", body, max_bytes=_MAX_VECTOR_BYTES)
        return embeddings(
            "Ollama", answer.get("embeddings"), count, answer.get("prompt_eval_count")
        )

    async def _fetch(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        max_bytes: int = _MAX_BODY_BYTES,
    ) -> dict[str, Any]:
        answer = await self._http.fetch(method, path, body, max_bytes=max_bytes)
        if not isinstance(answer, dict):
            raise ProtocolError(f"Ollama's {path} sent something that is not a JSON object")
        if isinstance(answer.get("error"), str) and answer["error"]:
            raise refusal(500, answer["error"], "")
        return answer

    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON documents that Ollama streams for a request, one per line.

        Closing the iterator closes the connection, which stops Ollama's work.

        Raises:
            AitorrentError: an error status, an error line, a line too long, or no connection.
        """
        model = str(body.get("model", ""))
        lines, documents = Lines(), JsonDocuments()
        async with self._http.opened("POST", path, body) as answer:
            async for part in answer.parts:
                for line in lines.feed(part):
                    if not documents and not line.lstrip(_BLANK).startswith((b"{", b"[")):
                        if line.strip():
                            raise not_json(line, answer.content_type)
                    elif (document := documents.add(line)) is not None:
                        for value in json_values(document, "Ollama"):
                            yield _checked(value, model)
                if len(lines) + len(documents) > _MAX_LINE_BYTES:
                    raise ProtocolError(f"Ollama sent a line of over {_MAX_LINE_BYTES} bytes")
            # The last line counts even without a line feed.
            rest = (documents.add(lines.end()) or documents.end()).strip()
            if rest:
                if not rest.lstrip(_BLANK).startswith((b"{", b"[")):
                    raise not_json(rest, answer.content_type)
                for value in json_values(rest, "Ollama"):
                    yield _checked(value, model)


def not_json(start: bytes, content_type: str) -> ProtocolError:
    """The error for an answer that is text or a web page; quotes its beginning."""
    text = " ".join(start[:200].decode("utf-8", "replace").split())
    kind = f" ({content_type})" if content_type else ""
    return ProtocolError(f"Ollama sent invalid JSON{kind}: {text}")


def _checked(value: Any, model: str) -> dict[str, Any]:
    if (error := reported_error(value)) is not None:
        raise refusal(error.status or 500, error.message, model)
    if not isinstance(value, dict):
        raise ProtocolError("Ollama sent something that is not a JSON object")
    return value
