"""Masking: a channel that looks like a WebSocket, so that it passes HTTP proxies and firewalls.

The dialer sends a real upgrade request for `/` (RFC 6455), the listener accepts it, and from then
on the channel's bytes travel as binary messages. A plain HTTP request gets a small HTTP response.
The handshake and records inside are the same as without masking, which adds no secrecy.

wsproto performs the upgrade; framing is our own (`websocket`), because copying dominated the cost.

Two asyncio protocols sit on the socket and give the inner protocol its own transport, so plain
connections bear none of this cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, Request
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from aitorrent_transport.links.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Payload,
    WebSocketReader,
    websocket_frame,
)
from aitorrentd.api import AitorrentError, Busy, ProtocolError, Unavailable
from aitorrentd.api.network.addresses import host_port

GET: Final = b"GET "
MAX_HTTP_HEAD_BYTES: Final = 8192
MAX_PENDING_PONGS_BYTES: Final = 64 * 1024
NORMAL_CLOSURE: Final = (1000).to_bytes(2, "big")

_PAGE: Final = b"<!doctype html><title>%s</title><h1>%s</h1>\n"


class _MaskedTransport(asyncio.Transport):
    """The transport that the inner protocol sees."""

    def __init__(self, outer: _Masked, raw: asyncio.Transport) -> None:
        super().__init__()
        self._outer = outer
        self._raw = raw

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._outer.inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._outer.inner

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._outer.send(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._outer.send(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._outer.finish()

    def pause_reading(self) -> None:
        self._outer.pause()

    def resume_reading(self) -> None:
        self._outer.resume()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high=high, low=low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def close(self) -> None:
        self._outer.close()

    def abort(self) -> None:
        self._raw.abort()


class _Masked(asyncio.Protocol):
    """The part common to both sides after the upgrade."""

    def __init__(self, inner: asyncio.BaseProtocol, side: ConnectionType) -> None:
        self.inner = inner
        self._is_client = side is ConnectionType.CLIENT
        self._ws = WSConnection(side)
        self._frames = WebSocketReader(masked=not self._is_client)
        self._head = b""
        self._said_close = False
        self._raw: asyncio.Transport | None = None
        self._open = False
        self._paused = False
        self._held = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def on_event(self, event: Event) -> None:
        """Handle an event that precedes the end of the upgrade."""
        raise ProtocolError(f"{type(event).__name__} before the WebSocket upgrade")

    def opened(self) -> None:
        """The upgrade is complete: start the inner protocol."""
        if self._raw is not None:
            self._open = True
            self.inner.connection_made(_MaskedTransport(self, self._raw))

    def receive(self, chunk: bytes) -> None:
        """Process bytes from the other side.

        Raises:
            ProtocolError: not valid HTTP or WebSocket.
        """
        while chunk and not self._open:
            chunk = self._take_head(chunk)
        for opcode, payload in self._frames.feed(chunk):
            if opcode == BINARY:
                self._deliver(payload)
            elif opcode == PING:
                self._answer(payload)
            elif opcode == CLOSE:
                self.close()
                return

    def _take_head(self, chunk: bytes) -> bytes:
        """Feed the HTTP head to wsproto; return the bytes after it."""
        head, end, rest = (self._head + chunk).partition(b"\r\n\r\n")
        if len(head) > MAX_HTTP_HEAD_BYTES:
            raise ProtocolError("an unterminated HTTP header")
        if not end:
            self._head = head
            return b""
        self._head = b""
        for event in self._events(head + end):
            self.on_event(event)
        return rest

    def _events(self, chunk: bytes) -> Iterator[Event]:
        events = self._ws.events()
        try:
            self._ws.receive_data(chunk)
            while (event := next(events, None)) is not None:
                yield event
        # wsproto does not catch the UnicodeError (a ValueError) of a malformed Host header.
        except (RemoteProtocolError, LocalProtocolError, ValueError) as e:
            raise ProtocolError(f"broken WebSocket: {e}") from None

    def _answer(self, ping: Payload) -> None:
        # RFC 6455, 5.5.3: only the latest of several pings needs an answer.
        if self._raw is not None and self._raw.get_write_buffer_size() < MAX_PENDING_PONGS_BYTES:
            self._say(PONG, ping)

    def _say(self, opcode: int, payload: Payload) -> None:
        if self._raw is not None and not self._raw.is_closing() and not self._said_close:
            self._raw.writelines(websocket_frame(opcode, payload, masked=self._is_client))

    def data_received(self, data: bytes) -> None:
        try:
            self.receive(data)
        except AitorrentError:
            self.cut()

    def cut(self) -> None:
        """Abort the connection without a close message."""
        if self._raw is not None:
            self._raw.abort()

    def send(self, payload: Payload) -> None:
        """Send one binary message."""
        self._say(BINARY, payload)

    def finish(self) -> None:
        """Signal the end of sending; the other side closes in response."""
        self._say(CLOSE, NORMAL_CLOSURE)
        self._said_close = True

    def close(self) -> None:
        """Close the WebSocket, then the connection."""
        self.finish()
        if self._raw is not None:
            self._raw.close()

    def pause(self) -> None:
        """Deliver nothing until `resume`; at most one read stays buffered in wsproto."""
        self._paused = True
        if self._raw is not None:
            self._raw.pause_reading()

    def resume(self) -> None:
        """Resume delivery."""
        self._paused = False
        held, self._held = self._held, bytearray()
        if held:
            self._deliver(held)
        if not self._paused and self._raw is not None and not self._raw.is_closing():
            self._raw.resume_reading()

    def _deliver(self, payload: Payload) -> None:
        rest = memoryview(payload)
        while len(rest):
            if self._paused:
                self._held += rest
                return
            if isinstance(self.inner, asyncio.BufferedProtocol):
                space = memoryview(self.inner.get_buffer(len(rest)))
                n = min(len(space), len(rest))
                space[:n] = rest[:n]
                self.inner.buffer_updated(n)
                rest = rest[n:]
            elif isinstance(self.inner, asyncio.Protocol):
                self.inner.data_received(bytes(rest))
                return

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        inner, self.inner = self.inner, asyncio.BaseProtocol()  # it refers back to this object
        inner.connection_lost(exc)


class MaskedDialer(_Masked):
    """Requests the upgrade, then runs `inner` inside it.

    `host` and `port` appear in the request.
    """

    def __init__(
        self,
        inner: asyncio.BaseProtocol,
        host: str,
        port: int,
        on_error: Callable[[AitorrentError], None],
    ) -> None:
        super().__init__(inner, ConnectionType.CLIENT)
        self._authority = host_port(host.removesuffix("."), port)
        self._on_error = on_error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open (asyncio.BaseProtocol)."""
        super().connection_made(transport)
        if self._raw is not None:
            self._raw.write(self._ws.send(Request(host=self._authority, target="/")))

    def data_received(self, data: bytes) -> None:
        """Bytes arrived from the other side (asyncio.Protocol)."""
        try:
            self.receive(data)
        except AitorrentError as e:
            self._on_error(e)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended (asyncio.BaseProtocol)."""
        self._on_error = lambda error: None  # it refers back through the outcome of the dial
        super().connection_lost(exc)

    def on_event(self, event: Event) -> None:
        """Handle the response to the upgrade request."""
        if isinstance(event, RejectConnection) and event.status_code == 503:
            raise Busy("the server at this address is too busy (HTTP status 503)")
        if not isinstance(event, AcceptConnection):
            raise Unavailable("a web server answers at this address, not a peer")
        self.opened()


class MaskedListener(_Masked):
    """Accepts the upgrade and runs `inner` inside it; answers browsers like a web server."""

    def __init__(self, inner: asyncio.BaseProtocol) -> None:
        super().__init__(inner, ConnectionType.SERVER)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived from the other side (asyncio.Protocol)."""
        if self._open:
            super().data_received(data)
            return
        self._head += data
        head, end, _ = self._head.partition(b"\r\n\r\n")
        if not end and len(self._head) <= MAX_HTTP_HEAD_BYTES:
            return
        if not end or len(head) > MAX_HTTP_HEAD_BYTES:
            self._answer_page(b"431 Request Header Fields Too Large")
        elif head.split(b" ", 2)[1:2] != [b"/"]:
            self._answer_page(b"404 Not Found")
        else:
            request, self._head = self._head, b""
            try:
                self.receive(request)
            except AitorrentError:
                if self._open:
                    self.cut()
                else:
                    self._answer_page(b"426 Upgrade Required", b"Upgrade: websocket\r\n")

    @property
    def is_open(self) -> bool:
        """Whether the upgrade is complete."""
        return self._open

    def refuse(self) -> None:
        """Answer like an overloaded web server; only before the upgrade."""
        self._answer_page(b"503 Service Unavailable")

    def _answer_page(self, status: bytes, header: bytes = b"") -> None:
        if self._raw is None or self._raw.is_closing():
            return
        page = _PAGE % (status, status)
        self._raw.write(
            b"HTTP/1.1 %s\r\n%sContent-Type: text/html\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (status, header, len(page), page)
        )
        self._raw.close()

    def on_event(self, event: Event) -> None:
        """Handle the upgrade request."""
        if not isinstance(event, Request) or self._raw is None:
            raise ProtocolError(f"{type(event).__name__} instead of an upgrade")
        self._raw.write(self._ws.send(AcceptConnection()))
        self.opened()
