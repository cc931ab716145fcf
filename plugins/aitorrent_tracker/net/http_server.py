"""The tracker's TCP port: many short connections, each bounded in bytes and time."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, cast

from aitorrent_tracker.answering.sources import packed, subnet_of
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.wire.http_replies import http_reply
from aitorrent_tracker.wire.http_requests import BadRequest, RequestReader
from aitorrentd.api.limits import InUse

IDLE_S: Final = 15.0
"From one answer to the end of the next request; bytes in between do not extend it."
MAX_BATCH: Final = 32
"Pipelined requests that are answered in one write."
BACKLOG: Final = 1024


class HttpServer:
    """All connections, and their limits."""

    def __init__(
        self,
        tracker: Tracker,
        clock: Callable[[], float],
        *,
        max_connections: int,
        max_per_subnet: int,
    ) -> None:
        self.tracker = tracker
        self.clock = clock
        self._max = max_connections
        self._max_per_subnet = max_per_subnet
        self._per_subnet: InUse[str] = InUse()
        self._open: OrderedDict[_Connection, float] = OrderedDict()
        "By the time of their last answer, the oldest first."
        self._handed_over: dict[asyncio.Transport, str] = {}
        "Connections that `adopt` took, and their networks, until a sweep finds them closed."
        self._servers: list[asyncio.Server] = []
        self.adopt: Callable[[asyncio.Transport, bytes], None] | None = None
        "Takes a connection, and what was read of it, on which a request is not for the tracker."

    def __len__(self) -> int:
        return len(self._open) + len(self._handed_over)

    async def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket."""
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(lambda: _Connection(self), sock=sock, backlog=BACKLOG)
        )

    def admit(self, connection: _Connection, subnet: str) -> bool:
        """Count a new connection; whether there is room for it."""
        if len(self) >= self._max:
            self.tracker.counts["http_turned_away"] += 1
            return False
        if subnet and not self._per_subnet.take(subnet, self._max_per_subnet):
            self.tracker.counts["http_turned_away"] += 1
            return False
        self.answered(connection)
        return True

    def answered(self, connection: _Connection) -> None:
        """Give a connection time for its next request."""
        self._open[connection] = self.clock()
        self._open.move_to_end(connection)

    def release(self, connection: _Connection, subnet: str) -> None:
        """Forget a connection that ended."""
        if self._open.pop(connection, None) is not None and subnet:
            self._per_subnet.release(subnet)

    def hand_over(
        self, connection: _Connection, subnet: str, transport: asyncio.Transport, rest: bytes
    ) -> None:
        """Give a connection to `adopt`; it still counts for its network."""
        if self.adopt is not None and self._open.pop(connection, None) is not None:
            self._handed_over[transport] = subnet
            self.adopt(transport, rest)

    def sweep(self) -> None:
        """End connections that took too long."""
        for transport, subnet in list(self._handed_over.items()):
            if transport.is_closing():
                del self._handed_over[transport]
                if subnet:
                    self._per_subnet.release(subnet)
        until = self.clock() - IDLE_S
        for connection, answered in list(self._open.items()):
            if answered > until:
                return
            self.tracker.counts["http_timeouts"] += 1
            connection.abort()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        for server in self._servers:
            server.close()
        for connection in list(self._open):
            connection.abort()
        for server in self._servers:
            await server.wait_closed()


class _Connection(asyncio.Protocol):
    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._host = b""
        self._subnet = ""
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        source = stream.get_extra_info("peername")
        if not source:  # gone before it was accepted
            stream.abort()
            return
        self._host = packed(source[0])
        self._subnet = subnet_of(self._host)
        if self._server.admit(self, self._subnet):
            self._transport = stream
        else:
            stream.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.release(self, self._subnet)

    def abort(self) -> None:
        """End the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        # A client that does not read its answers gets no further ones.
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._answer()
        if self._transport is not None and not self._is_paused:
            self._transport.resume_reading()

    def data_received(self, raw: bytes) -> None:
        self._reader.feed(raw)
        self._answer()

    def _answer(self) -> None:
        """Answer the requests that are complete, those that were pipelined in one write."""
        server = self._server
        while (transport := self._transport) is not None and not self._is_paused:
            replies, is_last = self._replies()
            if replies:
                server.answered(self)
                transport.write(replies[0] if len(replies) == 1 else b"".join(replies))
                if is_last:
                    self._end(transport)
                elif not self._reader.has_rest:
                    return
            elif server.adopt is not None and self._reader.is_for_others():
                self._transport = None
                server.hand_over(self, self._subnet, transport, self._reader.rest())
            else:
                return

    def _replies(self) -> tuple[list[bytes], bool]:
        """Some replies, and whether the connection ends after them."""
        server, host, now = self._server, self._host, self._server.clock()
        tracker, has_others = server.tracker, server.adopt is not None
        replies: list[bytes] = []
        # Few at a time, so that a client which does not read them makes the transport pause.
        for _ in range(MAX_BATCH):
            if has_others and self._reader.is_for_others():
                break
            try:
                request = self._reader.take()
            except BadRequest as e:
                tracker.counts["refused_http"] += 1
                replies.append(http_reply(b"", status=e.status, is_head=False, keeps_alive=False))
                return replies, True
            if request is None:
                break
            status, body = tracker.http(request, host, now)
            keeps_alive = request.keeps_alive
            replies.append(
                http_reply(body, status=status, is_head=request.is_head, keeps_alive=keeps_alive)
            )
            if not keeps_alive:
                return replies, True
        return replies, False

    def _end(self, transport: asyncio.Transport) -> None:
        """Close after what was written; later bytes are ignored."""
        self._transport = None
        transport.close()
