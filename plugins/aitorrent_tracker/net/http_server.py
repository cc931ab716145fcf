"""The tracker's TCP port: many short connections, each bounded in bytes and time."""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, cast

from aitorrent_tracker.answering.sources import packed, subnet_of
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.net.accepting import Acceptor
from aitorrent_tracker.wire.http_replies import http_reply
from aitorrent_tracker.wire.http_requests import BadRequest, RequestReader
from aitorrentd.api.limits import InUse

IDLE_S: Final = 15.0
"From one answer to the end of the next request; bytes in between do not extend it."
MAX_BATCH: Final = 32
"Pipelined requests that are answered in one write."
MAX_READ: Final = 16_384
"Bytes that are read of a new connection before it is held."


class HttpServer:
    """All connections, and their limits."""

    def __init__(
        self,
        tracker: Tracker,
        clock: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
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
        self._acceptor = Acceptor(self._begin)
        self._packed = lru_cache(maxsize=4096)(packed)
        self._spawn = spawn
        self.adopt: Callable[[asyncio.Transport, bytes], None] | None = None
        "Takes a connection, and what was read of it, on which a request is not for the tracker."

    def __len__(self) -> int:
        return len(self._open) + len(self._handed_over)

    def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket that does not block; the caller closes it after `close`."""
        self._acceptor.listen(sock)

    def _begin(self, sock: socket.socket, source: Any) -> None:
        """Answer a new connection at once, if its request is there; hold it if more may come."""
        host = self._packed(source[0])
        connection = _Connection(self, host, subnet_of(host))
        if len(self) >= self._max:
            self.tracker.counts["http_turned_away"] += 1
        elif not connection.answer_first(sock) and self._admit(connection, connection.subnet):
            self._spawn(self._hold(sock, connection), "tracker: connection")
            return
        sock.close()

    async def _hold(self, sock: socket.socket, connection: _Connection) -> None:
        loop, is_held = asyncio.get_running_loop(), False
        try:
            with suppress(OSError):  # it ended meanwhile
                await loop.connect_accepted_socket(lambda: connection, sock=sock)
                is_held = True
        finally:
            if not is_held:
                self.release(connection, connection.subnet)
                sock.close()

    def _admit(self, connection: _Connection, subnet: str) -> bool:
        """Count a connection that is held; whether there is room for it."""
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

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._acceptor.close()
        for connection in list(self._open):
            connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, server: HttpServer, host: bytes, subnet: str) -> None:
        self.subnet = subnet
        self._server = server
        self._host = host
        self._reader = RequestReader()
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._unsent = b""
        self._ends = False
        "After what is unsent."

    def answer_first(self, sock: socket.socket) -> bool:
        """Answer what has arrived on a new socket; whether that is the end of the connection."""
        try:
            raw = sock.recv(MAX_READ)
            if not raw:
                return True
            self._reader.feed(raw)
            replies, self._ends = self._replies()
            self._unsent = b"".join(replies)
            if self._unsent:
                self._unsent = self._unsent[sock.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError:
            return True
        return self._ends and not self._unsent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast(asyncio.Transport, transport)
        if self._unsent:
            stream.write(self._unsent)
            self._unsent = b""
        if self._ends:
            self._end(stream)
        else:
            self._answer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.release(self, self.subnet)

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
                server.hand_over(self, self.subnet, transport, self._reader.rest())
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
