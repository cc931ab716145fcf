"""The tracker's TCP port: many short connections, each bounded in bytes and time."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, cast

from aitorrent_tracker.answering.sources import subnet_of
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.net.accepting import Acceptor
from aitorrent_tracker.net.turns import Client, Turns
from aitorrent_tracker.wire.http_replies import http_reply
from aitorrent_tracker.wire.http_requests import BadRequest, RequestReader
from aitorrentd.api.limits import InUse

IDLE_S: Final = 15.0
"From one answer to the end of the next request; bytes in between do not extend it."
MAX_BATCH: Final = 32
"Pipelined requests that are answered in one write."
_TASK: Final = "tracker: connection"


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
        self._open: set[_Connection] = set()
        self._handed_over: dict[asyncio.Transport, str] = {}
        "Connections that `adopt` took, and their networks, until a sweep finds them closed."
        self._acceptor = Acceptor(self._begin)
        self._turns = Turns(self)
        self._spawn = spawn
        self.adopt: Callable[[asyncio.Transport, bytes], None] | None = None
        "Takes a connection, and what was read of it, on which a request is not for the tracker."

    def __len__(self) -> int:
        return len(self._turns) + len(self._open) + len(self._handed_over)

    def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket that does not block; the caller closes it after `close`."""
        self._acceptor.listen(sock)

    def _begin(self, accepted: list[tuple[int, bytes]]) -> None:
        """Serve new connections at once: most have sent their request, and end after it."""
        now, begin = self.clock(), 0
        while begin < len(accepted):
            room = self._max - len(self)
            if room <= 0:
                self.tracker.counts["http_turned_away"] += len(accepted) - begin
                for fd, _ in accepted[begin:]:
                    os.close(fd)
                return
            some = accepted[begin : begin + room]
            self._turns.serve([Client(fd, host, now) for fd, host in some])
            begin += room

    def replies(self, reader: RequestReader, host: bytes, now: float) -> tuple[list[bytes], bool]:
        """Replies to requests that have arrived, and whether the connection ends after them."""
        tracker, has_others = self.tracker, self.adopt is not None
        replies: list[bytes] = []
        # Few at a time, so that a client which does not read them makes the transport pause.
        for _ in range(MAX_BATCH):
            if has_others and reader.is_for_others():
                break
            try:
                request = reader.take()
            except BadRequest as e:
                tracker.counts["refused_http"] += 1
                replies.append(http_reply(b"", status=e.status, is_head=False, keeps_alive=False))
                return replies, True
            if request is None:
                break
            status, body = tracker.http(request, host, now)
            _, _, is_head, keeps_alive, _ = request
            replies.append(
                http_reply(body, status=status, is_head=is_head, keeps_alive=keeps_alive)
            )
            if not keeps_alive:
                return replies, True
            if not reader.has_rest:
                break
        return replies, False

    def hold(self, client: Client) -> None:
        """Wait for the next request; closes a connection for which there is no room."""
        if client.subnet is None and self._admit(client):
            self._turns.add(client)

    def move(self, client: Client, reader: RequestReader, unsent: bytes, *, ends: bool) -> None:
        """Give a connection a transport, and what was read of it and is to be sent to it."""
        if client.subnet is not None:
            self._turns.remove(client)
        elif not self._admit(client):
            return
        connection = _Connection(self, client, reader, unsent, ends=ends)
        self._open.add(connection)
        self._spawn(self._connect(socket.socket(fileno=client.fd), connection), _TASK)

    def end(self, client: Client) -> None:
        """Close a connection."""
        if client.subnet is not None:
            self._turns.remove(client)
            if client.subnet:
                self._per_subnet.release(client.subnet)
        os.close(client.fd)

    def _admit(self, client: Client) -> bool:
        """Count a connection that is held; closes it if there is no room for it."""
        subnet = subnet_of(client.host)
        if subnet and not self._per_subnet.take(subnet, self._max_per_subnet):
            self.tracker.counts["http_turned_away"] += 1
            os.close(client.fd)
            return False
        client.subnet = subnet
        return True

    async def _connect(self, sock: socket.socket, connection: _Connection) -> None:
        loop, is_held = asyncio.get_running_loop(), False
        try:
            with suppress(OSError):  # it ended meanwhile
                await loop.connect_accepted_socket(lambda: connection, sock=sock)
                is_held = True
        finally:
            if not is_held:
                self.release(connection, connection.subnet)
                sock.close()

    def release(self, connection: _Connection, subnet: str) -> None:
        """Forget a connection that ended."""
        if connection in self._open:
            self._open.remove(connection)
            if subnet:
                self._per_subnet.release(subnet)

    def hand_over(
        self, connection: _Connection, subnet: str, transport: asyncio.Transport, rest: bytes
    ) -> None:
        """Give a connection to `adopt`; it still counts for its network."""
        if self.adopt is not None and connection in self._open:
            self._open.remove(connection)
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
        for client in self._turns.silent_since(until):
            self.tracker.counts["http_timeouts"] += 1
            self.end(client)
        for connection in [held for held in self._open if held.answered_at <= until]:
            self.tracker.counts["http_timeouts"] += 1
            connection.abort()

    def close(self) -> None:
        """Stop listening and end all connections."""
        self._acceptor.close()
        self._turns.close()
        for connection in list(self._open):
            connection.abort()


class _Connection(asyncio.Protocol):
    """A connection with a transport: it buffers, and waits for clients that are slow to read."""

    __slots__ = (
        *("_clock", "_ends", "_host", "_is_fresh", "_is_paused", "_reader", "_server"),
        *("_transport", "_unsent", "_usual_http", "answered_at", "subnet"),
    )

    def __init__(
        self,
        server: HttpServer,
        client: Client,
        reader: RequestReader,
        unsent: bytes,
        *,
        ends: bool,
    ) -> None:
        self.subnet = client.subnet or ""
        self.answered_at = client.answered_at
        self._server = server
        self._clock = server.clock
        self._usual_http = server.tracker.usual_http
        self._host = client.host
        self._reader = reader
        self._is_fresh = not reader.has_rest
        "False if bytes may be left in the reader."
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._unsent = unsent
        self._ends = ends
        "After what is unsent."

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
        transport = self._transport
        if transport is not None and self._is_fresh and not self._is_paused:
            now = self._clock()
            usual = self._usual_http(raw, self._host, now)
            if usual is not None:
                reply, keeps_alive = usual
                self.answered_at = now
                transport.write(reply)
                if not keeps_alive:
                    self._end(transport)
                return
        self._reader.feed(raw)
        self._answer()
        self._is_fresh = not self._reader.has_rest

    def _answer(self) -> None:
        """Answer the requests that are complete, those that were pipelined in one write."""
        server = self._server
        while (transport := self._transport) is not None and not self._is_paused:
            now = server.clock()
            replies, is_last = server.replies(self._reader, self._host, now)
            if replies:
                self.answered_at = now
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

    def _end(self, transport: asyncio.Transport) -> None:
        """Close after what was written; later bytes are ignored."""
        self._transport = None
        transport.close()
