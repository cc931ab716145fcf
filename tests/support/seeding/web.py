"""A web server for files: ranges, and failures on demand."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ClientConnectionResetError, web


@dataclass
class FileServer:
    """Serves `content` at every path; what it did is in its fields."""

    content: bytes
    url: str = ""
    requests: list[str] = field(default_factory=list)
    "The Range header of each request."
    sent: int = 0
    "Bytes of bodies."
    authorization: set[str] = field(default_factory=set)
    status: int = 0
    "Answered instead of the file; 0 = the file."
    rate_bps: float = 0.0
    "0 = unlimited."
    breaks_after: int = 0
    "Bytes after which each connection is cut; 0 = never."

    def corrupt(self, at: int) -> None:
        """Change a byte."""
        changed = bytearray(self.content)
        changed[at] ^= 0xFF
        self.content = bytes(changed)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.headers.get("Range", ""))
        self.authorization.add(request.headers.get("Authorization", ""))
        if self.status:
            return web.Response(status=self.status)
        start, stop = 0, len(self.content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "")):
            start = int(match[1])
            stop = min(stop, int(match[2]) + 1) if match[2] else stop
        response = web.StreamResponse(status=206 if match else 200)
        response.content_length = stop - start
        if match:
            total = len(self.content)
            response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{total}"
        await response.prepare(request)
        with contextlib.suppress(ClientConnectionResetError):  # the client was killed
            await self._send(response, start, stop)
        return response

    async def _send(self, response: web.StreamResponse, start: int, stop: int) -> None:
        begun = start
        for at in range(start, stop, 65_536):
            part = self.content[at : min(at + 65_536, stop)]
            if self.rate_bps:
                await asyncio.sleep(len(part) / self.rate_bps)
            await response.write(part)
            self.sent += len(part)
            if self.breaks_after and at - begun >= self.breaks_after:
                response.force_close()
                raise ConnectionResetError("cut by the test")


@asynccontextmanager
async def file_server(content: bytes) -> AsyncIterator[FileServer]:
    """A server on loopback while the block runs."""
    server = FileServer(content)
    app = web.Application()
    app.router.add_get("/{path:.*}", server._handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/file?token=secret"
    try:
        yield server
    finally:
        await runner.cleanup()
