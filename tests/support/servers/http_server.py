"""A small HTTP/1.1 server on loopback for fake model servers: exact bytes, failures on demand.

A handler is cancelled when its client disconnects, as in the real servers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.support.nodes import free_port


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """Writes one response."""

    writer: asyncio.StreamWriter
    started: bool = False

    def _head(self, status: int, content_type: str, length: str) -> bytes:
        return (f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{length}\r\n\r\n").encode()

    async def send(self, status: int, body: bytes, content_type: str) -> None:
        self.started = True
        length = f"Content-Length: {len(body)}"
        self.writer.write(self._head(status, content_type, length) + body)
        await self.writer.drain()

    async def json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        await self.send(status, body, "application/json; charset=utf-8")

    async def start(self, content_type: str) -> None:
        self.started = True
        self.writer.write(self._head(200, content_type, "Transfer-Encoding: chunked"))
        await self.writer.drain()

    async def part(self, data: bytes) -> None:
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def break_off(self) -> None:
        """End the connection in the middle of the response."""
        self.writer.close()


Handler = Callable[[Request, Reply], Awaitable[None]]


@dataclass
class HttpServer:
    """Serves `handler` on 127.0.0.1 while its block runs."""

    handler: Handler
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    "Set when a client disconnected before its response ended."

    def __post_init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._more = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def asked(self, path: str) -> None:
        """Wait until a request for `path` has arrived."""
        async with self._more:
            await self._more.wait_for(lambda: any(r.path == path for r in self.requests))

    async def start(self) -> None:
        """Listen, on the same port as before, which nobody was given meanwhile."""
        self.port = self.port or free_port()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            ahead: bytes | None = b""
            while ahead is not None and (request := await self._read(reader, ahead)) is not None:
                async with self._more:
                    self.requests.append(request)
                    self._more.notify_all()
                ahead = await self._answer(request, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """What arrived of the next request meanwhile; None if the connection does not stay open."""
        answering = asyncio.ensure_future(self.handler(request, Reply(writer)))
        watching = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            # A client may send its next request once it has the whole response.
            is_reset = watching.done() and watching.exception() is not None
            ahead = watching.result() if watching.done() and not is_reset else b""
            if watching.done() and not ahead and not answering.done():
                self.cancelled.set()
                return None
            await answering
            return None if writer.is_closing() or is_reset or reader.at_eof() else ahead
        finally:
            for future in (answering, watching):
                future.cancel()
            await asyncio.gather(answering, watching, return_exceptions=True)

    @staticmethod
    async def _read(reader: asyncio.StreamReader, ahead: bytes) -> Request | None:
        try:
            head = (ahead + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *rest = head.split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in rest if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(method, path, headers, body)
