"""Requests to the Hub: the client starts with the first one, and its errors name the Hub."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aitorrent_hub.upstream.headers import Pairs, token_of
from aitorrentd.api import NotFound, Unavailable

if TYPE_CHECKING:
    from aitorrent_hub.upstream.connection import Answer, HubClient

_RANGE: Final = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_LENGTH: Final = re.compile(r"\d{1,18}", re.ASCII)
_AGENT: Final = "aitorrentd"


@dataclass(frozen=True, slots=True)
class FileBody:
    """An answer with the rest of a file."""

    status: int
    start: int
    "Where its first byte is in the file."
    stop: int | None
    "The size of the file, if the answer says it."
    answer: Answer

    def parts(self) -> AsyncIterator[bytes]:
        """The bytes."""
        return self.answer.parts()


class Hub:
    """The Hub at `origin`."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._client: HubClient | None = None
        self._starting = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    async def client(self) -> HubClient:
        """The client, once it is imported."""
        async with self._starting:
            if self._client is None:
                # The import of aiohttp takes longer than the event loop may block.
                name = "aitorrent_hub.upstream.connection"
                module = await asyncio.to_thread(importlib.import_module, name)
                has_tls = self.origin.startswith("https:")
                tls = await asyncio.to_thread(module.tls_context) if has_tls else None
                made: HubClient = module.HubClient(self.origin, tls)
                self._client = made
            return self._client

    async def head(self, target: str, headers: Pairs) -> tuple[int, Pairs, list[Mapping[str, str]]]:
        """Status, headers, and the headers of the whole chain of redirects at the Hub.

        Raises:
            Unavailable, TimedOut: as `HubClient.opened`.
        """
        client = await self.client()
        async with client.opened("HEAD", target, _plain(headers), follow="here") as answer:
            return answer.status, answer.headers, answer.chain

    def file(
        self, target: str, headers: Pairs, start: int, stop: int | None = None
    ) -> AbstractAsyncContextManager[FileBody]:
        """The content of a file from `start` on, before `stop`."""
        return self._file(target, headers, start, stop)

    @asynccontextmanager
    async def _file(
        self, target: str, headers: Pairs, start: int, stop: int | None
    ) -> AsyncIterator[FileBody]:
        client = await self.client()
        sent = _plain(headers)
        if start or stop is not None:
            sent.append(("range", f"bytes={start}-{'' if stop is None else stop - 1}"))
        async with client.opened("GET", target, sent, follow="all") as answer:
            status = answer.status
            if status in (404, 410):
                raise NotFound("the Hub no longer has the file")
            if status not in (200, 206, 416):
                raise Unavailable(f"the Hub answers with status {status}")
            told = {name.lower(): value for name, value in answer.headers}
            if told.get("content-encoding", "identity") != "identity":
                raise Unavailable("the Hub sends a file compressed, which was not asked for")
            if status == 206:
                match = _RANGE.fullmatch(told.get("content-range", ""))
                if match is None:
                    raise Unavailable("the Hub sends a part without saying which")
                size = None if match[2] == "*" else int(match[2])
                yield FileBody(status, int(match[1]), size, answer)
            else:
                length = told.get("content-length", "")
                size = int(length) if _LENGTH.fullmatch(length) and status == 200 else None
                yield FileBody(status, 0, size, answer)


def _plain(headers: Pairs) -> Pairs:
    """The headers of a request about a file: whose it is, and nothing that changes the answer."""
    token = token_of(headers)
    agent = next((value for name, value in headers if name == "user-agent"), _AGENT)
    sent = [("user-agent", agent), ("accept-encoding", "identity"), ("accept", "*/*")]
    return [*sent, ("authorization", token)] if token else sent
