"""Connections of a web server: uvicorn's HTTP/1.1 protocol, with the limits that it lacks.

Import it where the first server starts, in a thread: uvicorn takes a few megabytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aitorrentd.api.faces.asgi import REFUSED, Aborted, App, Message, Receive, Send, WebLimits
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.faces.heads import HeadJoining

LEAST_BYTES: Final = 16 * 1024
"What a client must take of a waiting answer in `stalled_s`."
_LINGER_S: Final = 1.0
_REFUSALS: Final = {
    400: (b"Bad Request", "a request needs exactly one Host header, and a path that begins with /"),
    413: (b"Content Too Large", "the body is too large"),
    431: (b"Request Header Fields Too Large", "the path and the headers are too large"),
    408: (b"Request Timeout", "the request did not arrive in time"),
}
"The reason in the status line, and the message."
_CODES: Final = {400: "bad_request", 408: "timeout"}
_COUNTED: Final = {400: "malformed", 408: "timeouts"}


class _Refused(Exception):
    """Stops the parser."""


class Connections:
    """The connections of one server, and their limits."""

    def __init__(
        self,
        app: App,
        log: logging.Logger,
        limits: WebLimits,
        refused: Callable[[int], None] | None = None,
    ) -> None:
        """`refused` hears the status of each request that is refused before `app` sees it."""
        self.app = app
        self._refused = refused
        self.limits = limits
        self.counts: Counter[str] = Counter()
        # Of an application, errors are logged; what strangers send is only counted.
        self.log = log.getChild("http")
        self.log.setLevel(logging.ERROR)
        self._open: dict[Connection, _Progress] = {}
        self._of_address: Counter[str] = Counter()
        self._none = asyncio.Event()
        self._none.set()
        self._state = ServerState()
        self._config = Config(
            cast(Any, app),
            http="httptools",
            interface="asgi3",
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=max(1, round(limits.idle_s)),
        )
        self._config.load()

    def __len__(self) -> int:
        return len(self._open)

    def new(self) -> Connection:
        """The protocol of a new connection."""
        return Connection(self, self._config, self._state)

    def refused(self, status: int) -> None:
        """Count a request that the application does not see."""
        self.counts[_COUNTED.get(status, "too_large")] += 1
        if self._refused is not None:
            self._refused(status)

    def opened(self, connection: Connection) -> bool:
        """Count a connection; whether there is room for it."""
        most = self.limits.per_address
        address = connection.client[0] if connection.client else ""
        is_crowd = most is not None and address != "" and self._of_address[address] >= most
        if is_crowd or len(self._open) >= self.limits.connections:
            self.counts["turned_away"] += 1
            return False
        self._of_address[address] += 1
        self._open[connection] = _Progress(connection.clock())
        self._none.clear()
        return True

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        if self._open.pop(connection, None) is not None:
            address = connection.client[0] if connection.client else ""
            self._of_address.subtract((address,))
            if self._of_address[address] <= 0:
                del self._of_address[address]
        if not self._open:
            self._none.set()

    def sweep(self) -> None:
        """Cut off clients that do not take their answers."""
        for connection, progress in list(self._open.items()):
            if progress.has_stalled(connection, self.limits.stalled_s):
                self.counts["stalled"] += 1
                connection.abort()

    async def close(self) -> None:
        """End all connections, running answers after `drain_s`, or at once if this is cancelled."""
        for connection in list(self._open):
            connection.shutdown()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.limits.drain_s):
                    await self._none.wait()
        finally:
            for connection in list(self._open):
                connection.abort()
            tasks = set(self._state.tasks)
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self.limits.drain_s)
        await self._none.wait()


class _Progress:
    """How much of its answers a client took, and since when."""

    __slots__ = ("_at", "_taken")

    def __init__(self, now: float) -> None:
        self._at = now
        self._taken = 0

    def has_stalled(self, connection: Connection, stalled_s: float) -> bool:
        now, waiting = connection.clock(), connection.waiting_bytes
        taken = connection.sent_bytes - waiting
        if waiting == 0 or taken - self._taken >= LEAST_BYTES:
            self._at, self._taken = now, taken
        return now - self._at > stalled_s


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, all_of_them: Connections, config: Config, state: ServerState) -> None:
        super().__init__(config=config, server_state=state, app_state={})
        self._all = all_of_them
        self._limits = all_of_them.limits
        self.clock = self.loop.time
        self.app = cast(Any, self._answer)
        self.logger = all_of_them.log
        self.access_log = False
        self.sent_bytes = 0
        "Of answers' bodies, into the transport."
        self._deadline: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._has_ended_head = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._is_refused = False
        self._hosts = 0
        self._answering: asyncio.Task[object] | None = None
        self._heads: HeadJoining

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the client has not taken, beyond the kernel's buffers."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Serve the connection, if there is room for it."""
        self._heads = HeadJoining(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, self._heads))
        if self._all.opened(self):
            self._arm(self._limits.header_s)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        self._disarm()
        self._all.closed(self)
        if self._limits.cancels and self._answering is not None:
            self._answering.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def abort(self) -> None:
        """Cut the connection without sending what waits."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, within limits."""
        if self._is_refused or self.transport.is_closing():
            return
        self._has_ended_head = False
        super().data_received(data)
        if self._is_refused or not self._is_in_head:
            return
        if not self._has_ended_head:
            # Of a header that is not complete yet, only the length of what was read is known.
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.header_bytes:
                self._refuse(431)
                return
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._arm(self._limits.header_s)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; a refusal is answered already."""
        if not self._is_refused:
            self._all.refused(400)
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head, self._head_bytes, self._body_bytes, self._hosts = True, 0, 0, 0
        if self._deadline is None:
            self._arm(self._limits.header_s)

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete."""
        self._count_head(len(name) + len(value) + 4)
        self._hosts += name.lower() == b"host"
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body follows, if any."""
        self._is_in_head, self._has_ended_head, self._head_bytes = False, True, 0
        if self._limits.one_host and (self._hosts != 1 or not self.url.startswith(b"/")):
            self._refuse(400)
            raise _Refused
        self._all.counts["requests"] += 1
        self._arm(self._limits.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._refuse(413)
            raise _Refused
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._disarm()
        # What was read with the end of a body is no header, though none ended in it.
        self._is_in_head, self._has_ended_head = True, True
        super().on_message_complete()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.header_bytes:
            self._refuse(431)
            raise _Refused

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, once its client took the last answer."""
        if self.waiting_bytes == 0:
            super().timeout_keep_alive_handler()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._refuse(408)

    def _refuse(self, status: int) -> None:
        """Answer that the request is not taken, unless an answer to it has begun, and close."""
        if self._is_refused:
            return
        self._is_refused = True
        self._disarm()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._all.refused(status)
        else:
            self._all.counts[_COUNTED.get(status, "too_large")] += 1
            if cycle.response_started or self.pipeline:
                self.abort()
                return
            # Its handler waits for the rest of the body, and must not answer, too.
            cast(Message, cycle.scope)[REFUSED] = status
            cycle.disconnected = True
            cycle.message_event.set()
        reason, message = _REFUSALS[status]
        code = _CODES.get(status, "request_too_large")
        body = HttpFault(status, "invalid_request_error", code, message).body()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (status, reason, len(body), body)
        )
        # A reset, which unread bytes cause, would overtake the answer: they are read and ignored.
        if self.transport.can_write_eof():  # TLS cannot
            self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.abort)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        self._answering = asyncio.current_task()
        scope["aitorrent.socket"] = self.transport.get_extra_info("socket")

        async def sending(message: Message) -> None:
            if self.transport.is_closing():
                raise Aborted  # the client left, and uvicorn is about to be told
            if message["type"] == "http.response.start":
                message = {**message, "headers": _dated(message.get("headers", ()))}
                self._heads.hold()
            self.sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._all.app(scope, receive, sending)
        except (Aborted, asyncio.CancelledError):  # only this module cancels
            # Of pipelined requests, `self.cycle` is the last, and this may be an earlier one.
            cycle = getattr(send, "__self__", None)
            if isinstance(cycle, RequestResponseCycle):
                cycle.disconnected = True
            self.abort()
        finally:
            self._answering = None


def _dated(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers with a date (RFC 9110, section 6.6.1)."""
    listed = list(headers)
    if all(name.lower() != b"date" for name, _ in listed):
        listed.append((b"date", _date(int(time.time()))))
    return listed


@lru_cache(1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
