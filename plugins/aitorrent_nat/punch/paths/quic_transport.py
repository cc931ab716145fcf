"""QUIC on a path, as an asyncio transport: reliable, in order, with back-pressure both ways.

Written bytes wait here while QUIC has some that it could not send yet, so the protocol is paused as
a socket would pause it, and still chooses what goes next. Unread bytes stop the peer after
`quic.WINDOW_BYTES`. The peer is not authenticated: that is the job of what runs inside.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StreamDataReceived,
    StreamReset,
)

from aitorrent_nat.punch.paths import quic
from aitorrent_nat.punch.paths.datagrams import Path
from aitorrent_nat.punch.paths.inbox import Inbox
from aitorrentd.api import MakeProtocol, ProtocolError, Unavailable

UNSENT_BYTES: Final = 128 * 1024
"QUIC holds at most this much unsent; what is written later can still be reordered by the protocol."
HIGH_WATER_BYTES: Final = 64 * 1024
LINGER_S: Final = 5.0
"A peer that does not acknowledge the end within this time after `close` is cut off."
KEEPALIVE_S: Final = 10.0
"Well below the 30 s for which even careless NATs keep a UDP mapping (RFC 4787 asks for 120 s)."
CONGESTION: Final = "cubic"
GREETING: Final = b"\x01"
"What the client sends first: it opens the stream, on which the server may then write."
_ABORTED: Final = 0x101
"Application error code: the other end reports a reset, not an end."


class QuicTransport(asyncio.Transport):
    """A connection over `path`, which it owns. Make it with `over`."""

    def __init__(self, path: Path, *, is_client: bool, **settings: Any) -> None:
        super().__init__()
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._is_client = is_client
        self._settings = settings
        self._quic: quic.BoundedConnection | None = None
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._protocol: asyncio.BaseProtocol | None = None

        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._low, self._high = HIGH_WATER_BYTES // 4, HIGH_WATER_BYTES
        self._protocol_paused = False
        self._eof_wanted = self._eof_written = False

        self._inbox = Inbox()
        self._greeted = is_client
        self._peer_ended = self._eof_told = False

        self._closing = self._finished = False
        self._terminated: ConnectionTerminated | None = None
        self._work_handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._linger: asyncio.TimerHandle | None = None
        self._keepalive: asyncio.TimerHandle | None = None

    @classmethod
    async def over(
        cls,
        path: Path,
        make_protocol: MakeProtocol,
        *,
        is_client: bool,
        datagram_bytes: int = 1200,
        rtt_s: float = 0.1,
        congestion: str = CONGESTION,
    ) -> QuicTransport:
        """Connect both ends of `path`, one of which is the client; like `create_connection`.

        `datagram_bytes` is the largest datagram that the path carries, `rtt_s` a first estimate of
        its round trip. On failure and cancellation the path is closed.

        Raises:
            Unavailable: the other end did not complete the handshake.
        """
        transport = cls(
            path,
            is_client=is_client,
            datagram_bytes=datagram_bytes,
            rtt_s=rtt_s,
            congestion=congestion,
        )
        try:
            await transport._connect()
        except BaseException:
            transport._finish(None)
            raise
        protocol = make_protocol()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport._work_soon()
        return transport

    async def _connect(self) -> None:
        self._path.listen(self._on_datagram, self._on_path_lost)
        if self._is_client:
            self._quic = quic.client(**self._settings)
            self._quic.connect(quic.ADDRESS, self._loop.time())
            self._quic.write(GREETING)
            self._work()
        await self._ready
        self._keepalive = self._loop.call_later(KEEPALIVE_S, self._on_keepalive)

    # What a protocol calls.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`peername` and `sockname` are the ends of the path (asyncio.BaseTransport)."""
        return {"peername": self._path.remote, "sockname": self._path.local}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on (asyncio.BaseTransport)."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The current protocol (asyncio.BaseTransport)."""
        if self._protocol is None:
            raise RuntimeError("the transport has no protocol yet")
        return self._protocol

    def is_closing(self) -> bool:
        """Whether it is closing or closed (asyncio.BaseTransport)."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether arriving bytes are delivered (asyncio.ReadTransport)."""
        return not self._inbox.paused and not self._closing

    def pause_reading(self) -> None:
        """Deliver nothing; the peer is stopped once its window is full (asyncio.ReadTransport)."""
        self._inbox.paused = True

    def resume_reading(self) -> None:
        """Deliver what arrived, soon (asyncio.ReadTransport)."""
        self._inbox.paused = False
        self._work_soon()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol is paused and resumed (asyncio.WriteTransport)."""
        if high is None:
            high = HIGH_WATER_BYTES if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._low, self._high = low, high
        self._pause_protocol()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The marks, low and high (asyncio.WriteTransport)."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes that QUIC has not accepted yet (asyncio.WriteTransport)."""
        return self._outbox_bytes

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send `data`, which may be reused at once (asyncio.WriteTransport)."""
        if self._eof_wanted and not self._closing:
            raise RuntimeError("cannot write after the end of the stream")
        if self._closing or not data:
            return
        self._outbox.append(bytes(data))
        self._outbox_bytes += len(data)
        self._fill()
        self._transmit()
        self._pause_protocol()

    def writelines(self, list_of_data: Any) -> None:
        """Send all of them (asyncio.WriteTransport)."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """True (asyncio.WriteTransport)."""
        return True

    def write_eof(self) -> None:
        """End this direction, after what was written (asyncio.WriteTransport)."""
        self._eof_wanted = True
        self._work_soon()

    def close(self) -> None:
        """Deliver what was written, then end; nothing is read any more (asyncio.BaseTransport)."""
        if not self._closing:
            self._closing = self._eof_wanted = self._inbox.is_deaf = True
            self._linger = self._loop.call_later(LINGER_S, self.abort)
            self._work_soon()

    def abort(self) -> None:
        """End at once; unsent bytes are lost (asyncio.WriteTransport)."""
        self._say_goodbye(_ABORTED)
        self._finish(None)

    # What the path and the loop call.

    def _on_datagram(self, datagram: bytes) -> None:
        if self._quic is None:
            try:
                self._quic = quic.server(datagram, **self._settings)
            except ProtocolError:
                return  # something else found its way to this port
        self._quic.receive_datagram(datagram, quic.ADDRESS, self._loop.time())
        self._work_soon()

    def _on_path_lost(self, reason: str) -> None:
        self._finish(ConnectionAbortedError(reason))

    def _on_timer(self) -> None:
        self._timer = None
        if self._quic is not None:
            self._quic.handle_timer(self._loop.time())
            self._work()

    def _on_keepalive(self) -> None:
        self._keepalive = self._loop.call_later(KEEPALIVE_S, self._on_keepalive)
        if self._quic is not None:
            self._quic.send_ping(0)
            self._work()

    def _work_soon(self) -> None:
        """One pass for all datagrams of this iteration of the loop: one reply serves them."""
        if self._work_handle is None and not self._finished:
            self._work_handle = self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._work_handle = None
        if self._finished or self._quic is None:
            return
        while (event := self._quic.next_event()) is not None:
            self._on_event(event)
        self._read(self._quic)
        if self._finished:
            return
        self._fill()
        self._transmit()
        self._resume_protocol()
        if self._closing and self._quic.is_delivered:
            self._say_goodbye(0)
            self._finish(None)

    def _on_event(self, event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id == quic.STREAM:
            data = event.data
            if not self._greeted and data:
                self._greeted = True
                self._inbox.taken += len(GREETING)
                data = data[len(GREETING) :]
                self._get_ready(None)
            self._inbox.add(data)
            self._peer_ended = self._peer_ended or event.end_stream
        elif isinstance(event, HandshakeCompleted) and self._is_client:
            self._get_ready(None)
        elif isinstance(event, StreamReset):
            self.abort()
        elif isinstance(event, ConnectionTerminated):
            self._terminated = event
            self._get_ready(
                Unavailable(f"the QUIC handshake failed: {event.reason_phrase or 'closed'}")
            )

    def _get_ready(self, error: Unavailable | None) -> None:
        if self._ready.done():
            return
        if error is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(error)

    def _read(self, connection: quic.BoundedConnection) -> None:
        if self._protocol is None:
            return
        if self._terminated is not None and self._terminated.error_code:
            self._finish(
                ConnectionResetError(self._terminated.reason_phrase or "reset by the peer")
            )
            return
        self._inbox.deliver(self._protocol)
        connection.taken(self._inbox.taken)
        if self._inbox:
            return  # the protocol reads no more for now
        if self._peer_ended and not self._eof_told and not self._closing:
            self._eof_told = True
            if isinstance(self._protocol, (asyncio.Protocol, asyncio.BufferedProtocol)):
                keep_open = self._protocol.eof_received()
                if not keep_open:
                    self.close()
        if self._terminated is not None:
            self._finish(None)

    # Writing.

    def _fill(self) -> None:
        """Give QUIC what it can send soon."""
        connection = self._quic
        if connection is None or not self._ready.done() or self._eof_written:
            return
        room = UNSENT_BYTES - connection.unsent_bytes
        while self._outbox and room > 0:
            data = self._outbox.popleft()
            if len(data) > room:
                self._outbox.appendleft(data[room:])
                data = data[:room]
            connection.write(data)
            self._outbox_bytes -= len(data)
            room -= len(data)
        if self._eof_wanted and not self._outbox:
            self._eof_written = True
            connection.write(b"", end=True)

    def _transmit(self) -> None:
        connection = self._quic
        if connection is None or self._finished:
            return
        now = self._loop.time()
        while datagrams := connection.datagrams_to_send(now):
            for datagram, _ in datagrams:
                self._path.send(datagram)
            self._fill()
        at = connection.get_timer()
        if self._timer is not None and self._timer_at != at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and at is not None:
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._on_timer)

    def _pause_protocol(self) -> None:
        if self._outbox_bytes > self._high and not self._protocol_paused and self._protocol:
            self._protocol_paused = True
            self._protocol.pause_writing()

    def _resume_protocol(self) -> None:
        if self._protocol_paused and self._outbox_bytes <= self._low and self._protocol:
            self._protocol_paused = False
            self._protocol.resume_writing()

    # The end.

    def _say_goodbye(self, code: int) -> None:
        if self._quic is None or self._finished:
            return
        self._quic.close(code)
        for datagram, _ in self._quic.datagrams_to_send(self._loop.time()):
            self._path.send(datagram)
            self._path.send(datagram)  # nothing repeats it if it is lost

    def _finish(self, error: Exception | None) -> None:
        if self._finished:
            return
        self._finished = self._closing = True
        for handle in (self._work_handle, self._timer, self._linger, self._keepalive):
            if handle is not None:
                handle.cancel()
        self._outbox.clear()
        self._outbox_bytes = 0
        self._path.close()
        if not self._ready.done():
            self._ready.set_exception(Unavailable(f"the path was lost: {error or 'closed'}"))
            self._ready.exception()  # seen: `over` may have been cancelled
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
