"""A link: an authenticated, encrypted connection to one peer that carries records.

The owner sets the three callbacks, then calls `start` and `send`. Reading uses
`asyncio.BufferedProtocol`: the socket writes into the record reader's buffer, and records are
decrypted in place, many per read. This is several times cheaper than asyncio streams, especially
with uvloop. Records sent together share one system call, since a call costs as much as encrypting
64 KiB.

A link ends once, for one reason: the peer closed it (and gave a reason), the connection was lost,
the peer violated the protocol, or this side closed it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_transport.links.path import (
    has_large_segments,
    is_stalled,
    is_unheard,
    tcp_info,
    unacked_bytes,
)
from aitorrent_transport.secure.handshake import HandshakeResult
from aitorrent_transport.secure.hello import HostPort
from aitorrent_transport.secure.records import (
    CLOSE,
    DATA,
    MIN_REKEY_INTERVAL_S,
    READ_BUFFER_BYTES,
    RecordReader,
    RecordWriter,
)
from aitorrentd.api import AitorrentError, PeerId, ProtocolError, Route

HIGH_WATER_BYTES: Final = 0
"""Whatever the kernel does not accept pauses the sender, who can then still choose what to send
next. Older versions of uvloop also write immediately only above this mark."""
BATCH_BYTES: Final = 256 * 1024
"Maximum size of a batch of sealed records; larger batches do not fit the CPU cache."
SMALL_BYTES: Final = 16 * 1024
"Smaller records are sent without batching."
UNSENT_BYTES: Final = 64 * 1024
"Unsent bytes the kernel accepts beyond those in flight: everything later queues behind them."
MAX_REASON_CHARS: Final = 200
DRAIN_BYTES: Final = 4096

log = logging.getLogger("aitorrentd.transport")


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """When a link changes its key, and how long it waits for its peer."""

    rekey_s: float = 3600.0
    "Seconds between two keys of this side."
    min_peer_rekey_s: float = MIN_REKEY_INTERVAL_S
    "A peer that changes its key sooner is disconnected."
    close_s: float = 5.0
    "A peer that accepts nothing for this long after `close` is disconnected."
    write_buffer_bytes: int = 16 * 1024 * 1024
    "A peer that lets more accumulate is disconnected."


LIMITS: Final = LinkLimits()


def _nobody(*_: Any) -> None:
    """Default for a callback that the owner did not set."""


class Link(asyncio.BufferedProtocol):
    """A connection to `peer` after a completed handshake.

    `remote` is the address of the other end of the connection, which is a relay's if the `route` is
    relayed; `observed` is this end's address as the peer sees it;
    `instance` distinguishes the peer's process from another one with the same identity. Counters
    cover bytes on the wire and data records.

    `on_record(view)` receives each record; the view is valid only during the call. If it raises an
    AitorrentError, the link ends. `on_lost(reason)` is called once, whichever side ended the link.
    `on_writable()` is called when the write buffer drains below the low-water mark.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        handshake: HandshakeResult,
        *,
        outbound: bool,
        remote: HostPort,
        route: Route,
        arrived: bytes = b"",
        limits: LinkLimits = LIMITS,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.peer: PeerId = handshake.peer
        self.agent = handshake.agent
        self.outbound = outbound
        self.remote = remote
        self.route = route
        self.observed = handshake.observed
        self.instance = handshake.instance
        self.handshake_hash = handshake.handshake_hash
        self.can_move = handshake.can_move
        self._segment_bytes = handshake.segment_bytes
        self.cipher = handshake.suite.name
        self.on_record: Callable[[memoryview], None] = _nobody
        self.on_lost: Callable[[str], None] = _nobody
        self.on_writable: Callable[[], None] = _nobody
        self.writable = True
        self.bytes_in = len(arrived)
        self.bytes_out = 0
        self.records_in = 0
        self.records_out = 0

        self._limits = limits
        self._loop = loop
        self._transport = transport
        self._flush_handle: asyncio.Handle | None = None
        self._writer = RecordWriter(handshake.sending, handshake.suite)
        self._reader = RecordReader(
            handshake.receiving,
            loop.time,
            handshake.suite,
            buffer_bytes=max(READ_BUFFER_BYTES, len(arrived)),
            min_rekey_s=limits.min_peer_rekey_s,
        )
        self._reader.space()[: len(arrived)] = arrived
        self._reader.feed(len(arrived))
        self._paused = True
        self._delivering = False
        self._ending = False
        self._lost = False
        self._reason = ""
        self._close_timer: asyncio.TimerHandle | None = None
        self._drain = memoryview(bytearray(DRAIN_BYTES))
        self._rekey_timer = loop.call_later(limits.rekey_s, self._rekey)
        # Only now: while handshake bytes are unsent, the limits pause the link immediately.
        transport.set_protocol(self)
        _tune(transport)

    def start(self) -> None:
        """Start delivering records; until then the connection is not read."""
        if self._lost:
            self._loop.call_soon(self._tell)  # it ended before the owner could be notified
        self.resume_reading()

    def send(self, *parts: bytes | memoryview) -> None:
        """Send the concatenated parts as one record; a no-op after the link has ended.

        Small records are sent immediately, large ones on `flush` or in the next event loop
        iteration. Never blocks: check `writable`. The link ends if the peer lets
        more than `LinkLimits.write_buffer_bytes` accumulate.

        Raises:
            TooLarge: more than MAX_PLAINTEXT bytes.
        """
        if self._ending:
            return
        try:
            self._gather(parts, DATA)
        except ProtocolError as e:
            self._end(e.message)
            return
        self.records_out += 1
        if self._writer.rekey_due:
            self._rekey()
        gathered = self._writer.gathered
        if gathered >= BATCH_BYTES or gathered < SMALL_BYTES:
            self.flush()
        elif self._flush_handle is None:
            self._flush_handle = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write batched records to the socket now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._lost or not self._writer.gathered:
            return
        self._transport.write(self._writer.take())
        if self._transport.get_write_buffer_size() > self._limits.write_buffer_bytes:
            self._end("the peer has stopped reading")

    def close(self, reason: str = "") -> None:
        """Close gracefully: deliver pending records, then send the peer `reason`.

        A peer that accepts nothing for `LinkLimits.close_s` is disconnected.
        """
        if self._ending:
            return
        self._ending = True
        self._reason = reason or "closed by this node"
        self._gather((_said(reason),), CLOSE)
        self.flush()
        self._close_timer = self._loop.call_later(self._limits.close_s, self._transport.abort)
        if self._transport.can_write_eof():
            # Closing a socket with unread bytes resets it, and the peer would lose data in flight.
            # So only this direction ends; the other is drained until the peer closes.
            self._transport.write_eof()
            if self._paused:
                self._transport.resume_reading()
        else:
            self._transport.close()

    @property
    def local_host(self) -> str:
        """This end's IP address; empty if the connection is no TCP connection."""
        place = self._transport.get_extra_info("sockname")
        if self._transport.get_extra_info("socket") is None or not isinstance(place, tuple):
            return ""
        return str(place[0]).removeprefix("::ffff:").partition("%")[0]

    def is_stalled(self) -> bool:
        """Whether the peer's silence suggests a path that drops large packets."""
        sock = self._transport.get_extra_info("socket")
        return sock is not None and is_stalled(tcp_info(sock), unacked_bytes(sock))

    def is_unheard(self) -> bool:
        """Whether nothing that this node sends has arrived for seconds."""
        sock = self._transport.get_extra_info("socket")
        return sock is not None and is_unheard(tcp_info(sock))

    def must_shrink(self) -> bool:
        """Whether the peer asks for smaller segments than this connection has."""
        sock = self._transport.get_extra_info("socket")
        return self._segment_bytes > 0 and sock is not None and has_large_segments(sock)

    def abort(self) -> None:
        """End the link at once; unsent bytes are lost."""
        self._end("aborted by this node")

    def pause_reading(self) -> None:
        """Stop reading and delivering records until `resume_reading`."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Resume after `pause_reading`, starting with records already received."""
        if self._paused and not self._ending:
            self._paused = False
            self._deliver()
            if not self._paused and not self._ending:
                self._transport.resume_reading()

    def statistics(self) -> dict[str, int]:
        """Counters for diagnostics."""
        return {
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "records_in": self.records_in,
            "records_out": self.records_out,
            "rekeys_out": self._writer.rekeys,
            "read_buffered": self._reader.buffered,
            "write_buffered": 0
            if self._lost
            else self._writer.gathered + self._transport.get_write_buffer_size(),
        }

    def _gather(self, parts: tuple[bytes | memoryview, ...], kind: int) -> None:
        writer = self._writer
        if not writer.gathered and not self._transport.get_write_buffer_size():
            writer.reuse()
        self.bytes_out += writer.seal(parts, kind)

    def _rekey(self) -> None:
        self._rekey_timer.cancel()
        if not self._ending:
            self.bytes_out += self._writer.rekey()
            self.flush()
            self._rekey_timer = self._loop.call_later(self._limits.rekey_s, self._rekey)

    def _deliver(self) -> None:
        if self._delivering:
            return  # called from within on_record: the loop below continues
        self._delivering = True
        try:
            while not self._paused and not self._ending:
                record = self._reader.next()
                if record is None:
                    return
                if record.kind == DATA:
                    self.records_in += 1
                    self.on_record(record.payload)
                else:
                    self._on_close(bytes(record.payload))
        except AitorrentError as e:
            self._end(e.message)
        finally:
            self._delivering = False

    def _on_close(self, payload: bytes) -> None:
        said = payload.decode("utf-8", "replace")[:MAX_REASON_CHARS]
        printable = "".join(c if c.isprintable() else "?" for c in said)
        self._ending = True
        self._reason = f"closed by the peer: {printable}" if said else "closed by the peer"
        self._close_timer = self._loop.call_later(self._limits.close_s, self._transport.abort)
        self._transport.close()

    def _end(self, reason: str) -> None:
        if not self._ending:
            self._ending = True
            self._reason = reason
        self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the socket may write (asyncio.BufferedProtocol)."""
        return self._reader.space() if not self._ending else self._drain

    def buffer_updated(self, nbytes: int) -> None:
        """The socket wrote `nbytes` (asyncio.BufferedProtocol)."""
        if self._ending:
            return  # draining: the buffer is overwritten
        self.bytes_in += nbytes
        self._reader.feed(nbytes)
        more = not self._reader.space_left
        self._deliver()
        if more and not self._paused and not self._ending:
            # libuv keeps reading while reads fill the buffer, up to 32 times, which would delay the
            # tasks that these records woke.
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._lost and (self._ending or not self._paused):
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The write buffer passed its high-water mark (asyncio.BaseProtocol)."""
        self.writable = False

    def resume_writing(self) -> None:
        """The write buffer drained (asyncio.BaseProtocol)."""
        self.writable = True
        if not self._ending:
            self.on_writable()

    def eof_received(self) -> None:
        """The peer sent EOF: the connection is over (asyncio.BufferedProtocol)."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended (asyncio.BaseProtocol)."""
        if self._lost:
            return
        self._lost = True
        if not self._ending:
            self._ending = True
            self._reason = f"the connection was lost ({exc})" if exc else "the connection was lost"
        self._rekey_timer.cancel()
        if self._close_timer is not None:
            self._close_timer.cancel()
        log.debug("link to %s ended: %s", self.peer, self._reason)
        self._tell()

    def _tell(self) -> None:
        if self.on_lost is not _nobody:
            tell, self.on_lost = self.on_lost, _nobody
            tell(self._reason)


def _said(reason: str) -> bytes:
    return reason[:MAX_REASON_CHARS].encode("utf-8", "replace")


def _tune(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
