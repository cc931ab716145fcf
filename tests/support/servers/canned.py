"""An HTTP client for the relays that returns given bytes, split anywhere, without a network."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from aitorrent_ollama.backend import OllamaBackend
from aitorrent_ollama.config import OllamaConfig
from aitorrent_ollama.connection import OllamaClient
from aitorrent_openai.backend import OpenaiBackend
from aitorrent_openai.config import ServerConfig
from aitorrent_openai.connection import OpenaiClient
from aitorrentd.api import AitorrentError, Backend, GenerateRequest, Message
from aitorrentd.api.relays.client import Body
from tests.support.clocks import FakeClock
from tests.support.nodes import REPOSITORY

CASES: Final = REPOSITORY / "tests" / "cases" / "inference"
log = logging.getLogger("test.canned")


class Outcome(NamedTuple):
    """The outcome of an answer."""

    text: str = ""
    thinking: str = ""
    reason: str = ""
    "Empty if it ended with an error."
    counts: tuple[int, int] = (0, 0)
    error: str = ""
    warning: str = ""
    hidden: int = 0
    "Tokens of thinking that the server only counts."


class CannedHttp:
    """Stands in for `HttpServer`."""

    def __init__(self, parts: Iterable[bytes], content_type: str) -> None:
        self._parts, self._content_type = list(parts), content_type
        self.sent: list[Mapping[str, Any]] = []

    @asynccontextmanager
    async def opened(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Body]:
        self.sent.append(body or {})

        async def parts() -> AsyncIterator[bytes]:
            for part in self._parts:
                yield part

        yield Body(self._content_type, parts())

    async def close(self) -> None:
        pass


# Loading certificates takes far longer than an answer from memory.
_CONFIG: Final = ServerConfig(name="case", url="http://127.0.0.1:9/v1")


@cache
def _openai_client() -> OpenaiClient:
    return OpenaiClient(_CONFIG)


@cache
def _ollama_client() -> OllamaClient:
    return OllamaClient("http://127.0.0.1:9", connect_timeout_s=1, read_timeout_s=1)


def openai_backend(parts: Iterable[bytes], content_type: str) -> Backend:
    backend = OpenaiBackend(_CONFIG, clock=FakeClock(), log=log)
    backend._client = copy(_openai_client())
    vars(backend._client)["_http"] = CannedHttp(parts, content_type)
    return backend


def ollama_backend(parts: Iterable[bytes], content_type: str) -> Backend:
    backend = OllamaBackend(OllamaConfig(), clock=FakeClock(), log=log)
    backend._client = copy(_ollama_client())
    vars(backend._client)["_http"] = CannedHttp(parts, content_type)
    return backend


REQUEST: Final = GenerateRequest(model="m", messages=(Message(role="user", content="hi"),))


async def outcome(backend: Backend, model: str = "m") -> Outcome:
    """The answer of `backend`, or its error; fails if the answer has no end."""
    text, thinking = "", ""
    try:
        async for chunk in backend.generate(REQUEST.model_copy(update={"model": model})):
            text += chunk.text
            thinking += chunk.thinking
            if chunk.done:
                counts = (chunk.prompt_tokens, chunk.completion_tokens)
                hidden = chunk.extra.get("reasoning_tokens", 0)
                return Outcome(text, thinking, str(chunk.reason), counts, "", chunk.warning, hidden)
    except AitorrentError as e:
        return Outcome(text, thinking, error=e.message)
    raise AssertionError("the answer has no end")


def expected(folder: str) -> dict[str, dict[str, Any]]:
    """`expected.json` of a folder of cases."""
    found: dict[str, dict[str, Any]] = json.loads((CASES / folder / "expected.json").read_text())
    return found


def read(folder: str, name: str) -> bytes:
    return Path(CASES / folder / name).read_bytes()
