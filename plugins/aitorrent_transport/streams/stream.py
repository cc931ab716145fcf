"""A stream as plugins see it: asyncio waits on top of a `StreamState`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from aitorrent_transport.streams.sending import SEND_QUEUE_BYTES
from aitorrent_transport.streams.stream_state import StreamState
from aitorrentd.api import (
    Conflict,
    Frame,
    PeerGone,
    PeerId,
    TooLarge,
    check_length,
    decode_frame,
    short,
)

_YIELD_BYTES: Final = 1024 * 1024  # a long write yields to other tasks after this much
_WHOLE_BYTES: Final = 16 * 1024
_LENGTH_BYTES: Final = 4

log = logging.getLogger("aitorrentd.transport")


class Carrier(Protocol):
    """Moves bytes between stream ends: a channel, or a local pair."""

    def pump(self, state: StreamState) -> None:
        """Bytes were queued or read: move all possible bytes soon."""

    def reset(self, state: StreamState, reason: str) -> None:
        """End both directions immediately."""

    def stop(self, state: StreamState, reason: str) -> None:
        """Stop reading."""


class ChannelStream:
    """Implements `aitorrentd.api.Stream`; one reader at a time, writes never interleave.

    A cancelled read loses nothing. A cancelled write may have sent part of its bytes: reset the
    stream in that case.
    """

    __slots__ = (
        "_carrier",
        "_on_frame",
        "_peer",
        "_reader",
        "_receiving",
        "_sending",
        "_state",
        "_write_lock",
        "_writer",
    )

    def __init__(self, state: StreamState, carrier: Carrier, peer: PeerId) -> None:
        self._state = state
        self._receiving = state.receiving
        self._sending = state.sending
        self._carrier = carrier
        self._peer = peer
        self._reader: asyncio.Future[None] | None = None
        self._on_frame: Callable[[], None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._write_lock = asyncio.Lock()
        self._receiving.on_readable = self._wake_reader
        self._sending.on_sendable = self._wake_writer

    def __repr__(self) -> str:
        return f"<stream {self._state.id} {self._state.protocol} with {short(self._peer)}>"

    @property
    def peer(self) -> PeerId:
        """The node at the other end."""
        return self._peer

    @property
    def protocol(self) -> str:
        """The protocol id that the stream was opened for."""
        return self._state.protocol

    def _wake_reader(self) -> None:
        if self._on_frame is not None:
            wake, self._on_frame = self._on_frame, None
            self._receiving.unwant()
            try:
                wake()
            except Exception:
                # Fence: a bug in the reader ends its stream, never the channel.
                log.exception("the reader of %r failed", self)
                self.reset("the reader failed")
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def _gone(self, text: str) -> PeerGone:
        return PeerGone(f"{short(self._peer)} {self._state.protocol}: {text}")

    # Reading

    async def _readable(self, wanted: int, ahead: int) -> bool:
        """Wait until `wanted` bytes are buffered; False if the stream ends first."""
        receiving = self._receiving
        while receiving.buffered < wanted:
            self._check_readable()
            if receiving.ended:
                return False
            self._check_alone()
            self._reader = asyncio.get_running_loop().create_future()
            receiving.want(wanted, ahead)
            try:
                # The peer may be waiting for credit for bytes already buffered.
                self._carrier.pump(self._state)
                await self._reader
            finally:
                self._reader = None
                receiving.unwant()
        return True

    def _check_readable(self) -> None:
        state = self._state
        if state.failure is not None:
            raise self._gone(state.failure)
        if self._receiving.closed:
            raise self._gone("closed here")

    def _check_alone(self) -> None:
        if self._reader is not None or self._on_frame is not None:
            raise RuntimeError(f"{self!r} has two readers")

    def _take(self, size: int) -> bytes:
        taken = self._receiving.take(size)
        if self._receiving.earned_credit:
            self._carrier.pump(self._state)
        return taken

    async def read(self, max_bytes: int = 65_536) -> bytes:
        """Between 1 and `max_bytes` bytes as soon as any arrive; b"" after the peer closed."""
        if not await self._readable(1, 1):
            return b""
        # Return one piece as received, without joining it to the next.
        front = self._receiving.front
        return self._take(front if _WHOLE_BYTES <= front <= max_bytes else max_bytes)

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes; PeerGone if the stream ends first."""
        if self._receiving.buffered < n and not await self._readable(n, n):
            raise self._gone(f"ended after {self._receiving.buffered} of {n} bytes")
        return self._take(n)

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        """The next frame, or None while it is incomplete; see `api.Stream`."""
        receiving = self._receiving
        wanted = _LENGTH_BYTES
        if receiving.buffered >= wanted:
            length = int.from_bytes(receiving.peek(_LENGTH_BYTES), "big")
            check_length(length, max_bytes)
            wanted += length
            if receiving.buffered >= wanted:
                return decode_frame(self._take(wanted), _LENGTH_BYTES)
        self._check_readable()
        if receiving.ended:
            raise self._gone(f"ended after {receiving.buffered} of {wanted} bytes")
        return None

    def when_frame(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, when `take_frame` has a frame or raises; see `api.Stream`."""
        self._check_alone()
        self._on_frame = wake
        receiving = self._receiving
        wanted = _LENGTH_BYTES
        if receiving.buffered >= wanted:
            wanted += int.from_bytes(receiving.peek(_LENGTH_BYTES), "big")
        receiving.want(wanted, wanted)
        if receiving.earned_credit:
            self._carrier.pump(self._state)

    async def read_line(self, max_bytes: int = 65_536) -> bytes:
        """Bytes up to and including the next newline; b"" at the end; TooLarge beyond `max_bytes`.

        A last line without a newline is returned as is.
        """
        receiving = self._receiving
        while not (length := receiving.line_length(max_bytes)):
            if receiving.buffered >= max_bytes:
                raise TooLarge(f"a line of more than {max_bytes} bytes from {short(self._peer)}")
            if not await self._readable(receiving.buffered + 1, max_bytes):
                length = receiving.buffered
                break
        return self._take(length)

    # Writing

    async def write(self, data: bytes | memoryview) -> None:
        """Queue all of `data`, waiting while the peer's window is full."""
        sending = self._sending
        if isinstance(data, bytes):
            view: bytes | memoryview = data
            lasting = True
        else:
            view = memoryview(data).cast("B")
            lasting = False
        size = len(view)
        if self._write_lock.locked() or sending.queued + size > SEND_QUEUE_BYTES:
            async with self._write_lock:
                await self._write_slowly(memoryview(view), lasting)
            return
        self._check_sendable()
        if size:
            sending.push(view if lasting else bytes(view))
            self._carrier.pump(self._state)

    def write_now(self, *parts: bytes | memoryview) -> bool:
        """Queue all of `parts` unless that would block; return whether they were queued."""
        sending = self._sending
        size = sum(map(len, parts))
        if self._write_lock.locked() or sending.queued + size > SEND_QUEUE_BYTES:
            return False
        self._check_sendable()
        for part in parts:
            sending.push(part)
        self._carrier.pump(self._state)
        return True

    async def _write_slowly(self, view: memoryview, lasting: bool) -> None:
        sending = self._sending
        at = since_yield = 0
        while at < len(view):
            self._check_sendable()
            room = SEND_QUEUE_BYTES - sending.queued
            if room <= 0:
                self._writer = asyncio.get_running_loop().create_future()
                try:
                    await self._writer
                finally:
                    self._writer = None
                since_yield = 0
                continue
            piece = view[at : at + room]
            sending.push(piece if lasting else bytes(piece))
            at += len(piece)
            since_yield += len(piece)
            self._carrier.pump(self._state)
            if since_yield >= _YIELD_BYTES:
                since_yield = 0
                await asyncio.sleep(0)
        self._check_sendable()

    def _check_sendable(self) -> None:
        sending = self._sending
        if sending.stopped is not None:
            raise self._gone(self._state.failure or sending.stopped)
        if sending.end_queued:
            raise Conflict(f"{self.protocol}: this end of the stream is closed for writing")

    # Ending

    async def close_write(self) -> None:
        """End the writing direction; reading continues."""
        async with self._write_lock:
            self._end()

    def _end(self) -> None:
        sending = self._sending
        if not sending.end_queued and not sending.over:
            sending.end_queued = True
            self._carrier.pump(self._state)

    async def close(self) -> None:
        """Close both directions gracefully; bytes already written are still delivered."""
        self._carrier.stop(self._state, "closed")
        self._wake_reader()
        await self.close_write()

    def reset(self, reason: str = "") -> None:
        """End both directions immediately; the peer's calls raise PeerGone."""
        self._carrier.reset(self._state, reason)
        self._state.fail(reason or "reset")
