"""Standard input and output as a client of MCP sees them, over the control socket.

Each line is a message. Nothing but answers is written to standard output; the daemon makes them,
so this process needs no restart when the daemon gets one.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from aitorrentd.cli import toolkit

MAX_LINE: Final = 2**20
"The longest message; a longer one is answered with an error."
_RETURNS_S: Final = 10.0
"How long a message waits for a daemon that is being restarted."
_POLL_S: Final = 0.2
_INTERNAL: Final = -32603
_INVALID: Final = -32600
_MOST_OPEN: Final = 64
_ENDS_S: Final = 2.0
"How long answers may take that are open when standard input ends."


class Bridge:
    """Carries messages to the daemon, and its answers back."""

    def __init__(
        self, connect: Callable[[], Awaitable[toolkit.AsyncClient]], write: Callable[[str], None]
    ) -> None:
        self._connect = connect
        self._write = write
        self._client: toolkit.AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._open: dict[str, asyncio.Task[None]] = {}
        "By the id of the request, as JSON."
        self._lines = 0

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Carry until standard input ends; what is still open then is cancelled.

        Raises:
            AitorrentError: there is no daemon at the start.
        """
        await self._connected()
        try:
            async with asyncio.TaskGroup() as group:
                while line := await _next_line(lines):
                    self._take(line, group)
                    while len(self._open) >= _MOST_OPEN:
                        await asyncio.wait(self._open.values(), return_when=asyncio.FIRST_COMPLETED)
                if self._open:
                    await asyncio.wait(self._open.values(), timeout=_ENDS_S)
                for task in list(self._open.values()):
                    task.cancel()
        finally:
            if self._client is not None:
                await self._client.close()

    def _take(self, line: bytes, group: asyncio.TaskGroup) -> None:
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return
        message: Any = None
        with suppress(ValueError, RecursionError):  # the daemon says what is wrong with it
            message = json.loads(text)
        told = message if isinstance(message, dict) else {}
        ident = told.get("id")
        if len(text) > MAX_LINE:
            # Without the id, which a message of more than 4 MiB has lost, its sender waits.
            shown = ident if isinstance(ident, str | int) else None
            self._fail(shown, _INVALID, f"the message is longer than {MAX_LINE} characters")
            return
        self._lines += 1
        key = json.dumps(ident) if isinstance(ident, str | int) else f"line {self._lines}"
        if told.get("method") == "notifications/cancelled":
            params = told.get("params")
            wanted = params.get("requestId") if isinstance(params, dict) else None
            if (task := self._open.get(json.dumps(wanted))) is not None:
                task.cancel()
            return
        if key in self._open:
            self._fail(ident, _INVALID, "a request with this id is open")
            return
        task = group.create_task(self._carry(text, ident), name=f"mcp {key[:40]}")
        self._open[key] = task
        task.add_done_callback(lambda _: self._open.pop(key, None))

    async def _carry(self, text: str, ident: object) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _RETURNS_S
        while True:
            client = None
            try:
                client = await self._connected()
                async for item in client.stream("gateway.mcp", {"line": text}):
                    self._write(str(item["line"]))
                return
            except toolkit.AitorrentError as e:
                # Nothing ran so far: the daemon is away, or its plugins are not there yet.
                is_early = client is None or bool(e.data.get("starting"))
                if not is_early or loop.time() > until:
                    sys.stderr.write(f"aitorrentctl mcp: {toolkit.clean(e.message)}\n")
                    if ident is not None:
                        self._fail(ident, _INTERNAL, e.message)
                    return
            await asyncio.sleep(_POLL_S)

    def _fail(self, ident: object, code: int, message: str) -> None:
        told = {"jsonrpc": "2.0", "id": ident, "error": {"code": code, "message": message}}
        self._write(json.dumps(told))

    async def _connected(self) -> toolkit.AsyncClient:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = None
                self._client = await self._connect()
            return self._client


async def _next_line(lines: asyncio.StreamReader) -> bytes:
    """The next line, of which at most a little over `MAX_LINE` bytes are kept; empty at the end."""
    found = b""
    while True:
        try:
            return found + await lines.readuntil(b"\n")
        except asyncio.IncompleteReadError as e:
            return found + e.partial
        except asyncio.LimitOverrunError as e:
            part = await lines.readexactly(e.consumed)
            found = (found + part)[: MAX_LINE * 4 + 1]


def _can_be_awaited(descriptor: int) -> bool:
    """Whether reading may block: not from a file or /dev/null, which epoll_ctl(2) refuses."""
    with select.epoll() as poller:
        try:
            poller.register(descriptor, select.EPOLLIN)
        except PermissionError:
            return False
    return True


async def run() -> None:
    """Carry messages between standard input, output and the daemon."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=MAX_LINE)
    protocol = asyncio.StreamReaderProtocol(lines)
    if _can_be_awaited(sys.stdin.fileno()):
        await loop.connect_read_pipe(lambda: protocol, sys.stdin)
    else:
        lines.feed_data(sys.stdin.buffer.read())
        lines.feed_eof()
    try:
        await Bridge(toolkit.connect_async, toolkit.echo).run(lines)
    except* BrokenPipeError:  # the client is gone
        pass
