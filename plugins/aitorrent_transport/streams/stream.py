"""A stream as plugins see it: asyncio waits on top of a `StreamState`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from aitorrent_transport.streams.stream_state import SEND_QUEUE_BYTES, StreamState
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

_YIELD_BYTES: Final = 1024 * 1024  # a long write lets others run after this much
_WHOLE_BYTES: Final = 16 * 1024
_LENGTH_BYTES: Final = 4

log = logging.getLogger("aitorrentd.transport")


class Carrier(Protocol):
    """What moves the bytes of cores: a channel, or the pair of a local stream."""

    def pump(self, core: StreamState) -> None:
        """Bytes were queued or read: move what can move, soon."""

    def reset(self, core: StreamState, reason: str) -> None:
        """End both directions at once."""

    def stop(self, core: StreamState, reason: str) -> None:
        """Read no more."""


class ChannelStream:
    """Implements `aitorrentd.api.Stream`; one reader at a time, writes never interleave.

    A cancelled read loses nothing. A cancelled write may have sent a part of its bytes: reset the
    stream then.
    """

    __slots__ = (
        "_carrier",
        "_core",
        "_on_frame",
        "_peer",
        "_reader",
        "_write_lock",
        "_writer",
    )

    def __init__(self, core: StreamState, carrier: Carrier, peer: PeerId) -> None:
        self._core = core
        self._carrier = carrier
        self._peer = peer
        self._reader: asyncio.Future[None] | None = None
        self._on_frame: Callable[[], None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._write_lock = asyncio.Lock()
        core.on_readable = self._wake_reader
        core.on_sendable = self._wake_writer

    def __repr__(self) -> str:
        return f"<stream {self._core.id} {self._core.protocol} with {short(self._peer)}>"

    @property
    def peer(self) -> PeerId:
        """The node at the other end."""
        return self._peer

    @property
    def protocol(self) -> str:
        """The protocol id that the stream was opened for."""
        return self._core.protocol

    def _wake_reader(self) -> None:
        if self._on_frame is not None:
            wake, self._on_frame = self._on_frame, None
            self._core.unwant()
            try:
                wake()
            except Exception:
                # A fence: the reader's bug costs its stream, never the channel.
                log.exception("the reader of %r failed", self)
                self.reset("the reader failed")
        elif self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writer(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    def _gone(self, text: str) -> PeerGone:
        return PeerGone(f"{short(self._peer)} {self._core.protocol}: {text}")

    # Reading

    async def _readable(self, wanted: int, ahead: int) -> bool:
        """Wait until `wanted` bytes are buffered; False when the stream ends before."""
        core = self._core
        while core.buffered < wanted:
            self._check_readable()
            if core.ended:
                return False
            self._check_alone()
            self._reader = asyncio.get_running_loop().create_future()
            core.want(wanted, ahead)
            try:
                # Credit for what is already here may be what the peer waits for.
                self._carrier.pump(core)
                await self._reader
            finally:
                self._reader = None
                core.unwant()
        return True

    def _check_readable(self) -> None:
        core = self._core
        if core.failure is not None:
            raise self._gone(core.failure)
        if core.reading_over:
            raise self._gone("closed here")

    def _check_alone(self) -> None:
        if self._reader is not None or self._on_frame is not None:
            raise RuntimeError(f"{self!r} has two readers")

    def _take(self, size: int) -> bytes:
        taken = self._core.take(size)
        if self._core.earned_credit:
            self._carrier.pump(self._core)
        return taken

    async def read(self, max_bytes: int = 65_536) -> bytes:
        """Between 1 and `max_bytes` bytes as soon as there are any; b"" after the peer closed."""
        if not await self._readable(1, 1):
            return b""
        # What came in one piece is handed over as it is, without joining it to the next.
        front = self._core.front
        return self._take(front if _WHOLE_BYTES <= front <= max_bytes else max_bytes)

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes; PeerGone when the stream ends before."""
        if self._core.buffered < n and not await self._readable(n, n):
            raise self._gone(f"ended after {self._core.buffered} of {n} bytes")
        return self._take(n)

    def take_frame(self, *, max_bytes: int) -> Frame | None:
        """The next frame, or None while a part of it is still missing; as `api.Stream` says."""
        core = self._core
        wanted = _LENGTH_BYTES
        if core.buffered >= wanted:
            length = int.from_bytes(core.peek(_LENGTH_BYTES), "big")
            check_length(length, max_bytes)
            wanted += length
            if core.buffered >= wanted:
                return decode_frame(self._take(wanted), _LENGTH_BYTES)
        self._check_readable()
        if core.ended:
            raise self._gone(f"ended after {core.buffered} of {wanted} bytes")
        return None

    def when_frame(self, wake: Callable[[], None]) -> None:
        """Call `wake` once, when `take_frame` has a frame or raises; as `api.Stream` says."""
        self._check_alone()
        self._on_frame = wake
        core = self._core
        wanted = _LENGTH_BYTES
        if core.buffered >= wanted:
            wanted += int.from_bytes(core.peek(_LENGTH_BYTES), "big")
        core.want(wanted, wanted)
        if core.earned_credit:
            self._carrier.pump(core)

    async def read_line(self, max_bytes: int = 65_536) -> bytes:
        """Bytes up to and with the next newline; b"" at the end; TooLarge beyond `max_bytes`.

        A last line without a newline is returned as it is.
        """
        core = self._core
        while not (length := core.line_length(max_bytes)):
            if core.buffered >= max_bytes:
                raise TooLarge(f"a line of more than {max_bytes} bytes from {short(self._peer)}")
            if not await self._readable(core.buffered + 1, max_bytes):
                length = core.buffered
                break
        return self._take(length)

    # Writing

    async def write(self, data: bytes | memoryview) -> None:
        """Queue all of `data`, waiting while the peer's window is full."""
        core = self._core
        if isinstance(data, bytes):
            view: bytes | memoryview = data
            lasting = True
        else:
            view = memoryview(data).cast("B")
            lasting = False
        size = len(view)
        if self._write_lock.locked() or core.queued + size > SEND_QUEUE_BYTES:
            async with self._write_lock:
                await self._write_slowly(memoryview(view), lasting)
            return
        self._check_sendable()
        if size:
            core.push(view if lasting else bytes(view))
            self._carrier.pump(core)

    def write_now(self, *parts: bytes | memoryview) -> bool:
        """Queue all of `parts` unless that would have to wait; whether it did."""
        core = self._core
        size = sum(map(len, parts))
        if self._write_lock.locked() or core.queued + size > SEND_QUEUE_BYTES:
            return False
        self._check_sendable()
        for part in parts:
            core.push(part)
        self._carrier.pump(core)
        return True

    async def _write_slowly(self, view: memoryview, lasting: bool) -> None:
        core = self._core
        at = since_yield = 0
        while at < len(view):
            self._check_sendable()
            room = SEND_QUEUE_BYTES - core.queued
            if room <= 0:
                self._writer = asyncio.get_running_loop().create_future()
                try:
                    await self._writer
                finally:
                    self._writer = None
                since_yield = 0
                continue
            piece = view[at : at + room]
            core.push(piece if lasting else bytes(piece))
            at += len(piece)
            since_yield += len(piece)
            self._carrier.pump(core)
            if since_yield >= _YIELD_BYTES:
                since_yield = 0
                await asyncio.sleep(0)
        self._check_sendable()

    def _check_sendable(self) -> None:
        core = self._core
        if core.failure is not None or core.stopped is not None:
            raise self._gone(core.failure or core.stopped or "")
        if core.end_queued:
            raise Conflict(f"{core.protocol}: this end of the stream is closed for writing")

    # Ending

    async def close_write(self) -> None:
        """Say that no more bytes follow; reading goes on."""
        async with self._write_lock:
            self._end()

    def _end(self) -> None:
        core = self._core
        if not core.end_queued and not core.sending_over:
            core.end_queued = True
            self._carrier.pump(core)

    async def close(self) -> None:
        """End both directions in order; bytes already written are still delivered."""
        self._carrier.stop(self._core, "closed")
        self._wake_reader()
        await self.close_write()

    def reset(self, reason: str = "") -> None:
        """End both directions at once; the peer's calls raise PeerGone."""
        self._carrier.reset(self._core, reason)
        self._core.fail(reason or "reset")
