"""Connections without transports: the requests that arrived on many of them are one turn.

A turn reads all requests, then answers all of them, then sends all answers. One request after the
other would take a third longer: each step finds the caches of the processor full of other ones.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.wire.http_requests import RequestReader

MAX_CLIENTS: Final = 64
"Connections that are served before other work has its turn."
MAX_READ: Final = 16_384
"Bytes that are read of a connection in one turn."


class Client:
    """A connection: its descriptor, and the packed address at its other end."""

    __slots__ = ("answered_at", "fd", "host", "subnet")

    def __init__(self, fd: int, host: bytes, now: float) -> None:
        self.fd = fd
        self.host = host
        self.answered_at = now
        self.subnet: str | None = None
        "What it counts for while it is held; None until then."


class Server(Protocol):
    """Who owns the connections."""

    tracker: Tracker
    clock: Callable[[], float]

    def replies(self, reader: RequestReader, host: bytes, now: float) -> tuple[list[bytes], bool]:
        """Replies to requests that have arrived, and whether the connection ends after them."""

    def hold(self, client: Client) -> None:
        """Hold a connection until its next request, unless that is done already."""

    def move(self, client: Client, reader: RequestReader, unsent: bytes, *, ends: bool) -> None:
        """Give a connection a transport: it has part of a request, or of an answer."""

    def end(self, client: Client) -> None:
        """Close a connection."""


class Turns:
    """Waits for requests on the connections that are added, and answers them in turns."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._is_open = False

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: Client) -> None:
        """Wait for requests of this one, too."""
        if not self._is_open:
            self._is_open = True
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._take)
        self._clients[client.fd] = client
        self._epoll.register(client.fd, select.EPOLLIN)

    def remove(self, client: Client) -> None:
        """Wait no longer; its descriptor stays open."""
        del self._clients[client.fd]
        self._epoll.unregister(client.fd)

    def silent_since(self, until: float) -> list[Client]:
        """Those that were answered last at `until` or before."""
        return [client for client in self._clients.values() if client.answered_at <= until]

    def close(self) -> None:
        """End all connections."""
        for client in list(self._clients.values()):
            self._server.end(client)
        if self._is_open:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _take(self) -> None:
        clients = self._clients
        self.serve([clients[fd] for fd, _ in self._epoll.poll(0, MAX_CLIENTS)])

    def serve(self, clients: Sequence[Client]) -> None:
        """Answer what these sent."""
        server, read, write = self._server, os.read, os.write
        arrived: list[tuple[Client, bytes]] = []
        for client in clients:
            try:
                raw = read(client.fd, MAX_READ)
            except BlockingIOError:
                server.hold(client)
                continue
            except OSError:
                raw = b""
            if raw:
                arrived.append((client, raw))
            else:
                server.end(client)
        now, usual_http = server.clock(), server.tracker.usual_http
        answers: list[tuple[Client, bytes, bool, RequestReader | None]] = []
        for client, raw in arrived:
            usual = usual_http(raw, client.host, now)
            if usual is None:
                answers.append(self._unusual(client, raw, now))
            else:
                reply, keeps_alive = usual
                answers.append((client, reply, keeps_alive, None))
        for client, reply, keeps_alive, rest in answers:
            try:
                sent = write(client.fd, reply) if reply else 0
            except BlockingIOError:
                sent = 0
            except OSError:
                server.end(client)
                continue
            if reply:
                client.answered_at = now
            if rest is not None or sent < len(reply):
                server.move(client, rest or RequestReader(), reply[sent:], ends=not keeps_alive)
            elif not keeps_alive:
                server.end(client)
            elif client.subnet is None:
                server.hold(client)

    def _unusual(
        self, client: Client, raw: bytes, now: float
    ) -> tuple[Client, bytes, bool, RequestReader | None]:
        """Any bytes: what to send, whether the connection stays open, and a reader with a rest."""
        reader = RequestReader()
        reader.feed(raw)
        replies, ends = self._server.replies(reader, client.host, now)
        rest = reader if reader.has_rest and not ends else None
        return client, b"".join(replies), not ends, rest
