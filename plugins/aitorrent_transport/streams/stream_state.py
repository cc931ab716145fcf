"""One end of a stream, without I/O: a receive buffer with its window, a send queue with its credit.

The receiver grants credit; the sender never has more unacknowledged bytes under way than that.
The window starts at 256 KiB and doubles, up to 16 MiB, while the reader consumes half of it within
two round trips, since then the window and not the reader is what limits the speed (the rule of
QUIC implementations). Growth comes out of a budget that all channels of the node share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from aitorrentd.api import PeerGone, Priority, ProtocolError

INITIAL_WINDOW: Final = 256 * 1024
MAX_WINDOW: Final = 16 * 1024 * 1024
SEND_QUEUE_BYTES: Final = 1024 * 1024
"Bytes that a stream takes from its writer before the writer has to wait."
_RESUME_BELOW: Final = SEND_QUEUE_BYTES // 2


class WindowBudget:
    """Bytes by which the windows of all streams together may exceed their initial size."""

    def __init__(self, limit: int = 256 * 1024 * 1024) -> None:
        self.left = limit

    def take(self, wanted: int) -> int:
        """`wanted`, or 0 when that much is not left."""
        if wanted > self.left:
            return 0
        self.left -= wanted
        return wanted

    def give(self, amount: int) -> None:
        """Return what was taken."""
        self.left += amount


def _nothing() -> None:
    return None


class StreamState:
    """State of one stream end.

    `on_readable` is called when the bytes that the reader wants are there or can come no more;
    `on_sendable` when a full send queue has room again or the sending side is over.
    """

    __slots__ = (
        "_ahead",
        "_ahead_limit",
        "_at",
        "_budget",
        "_chunks",
        "_consumed",
        "_credited_at",
        "_pieces",
        "_scanned",
        "_wanted",
        "allowance",
        "buffered",
        "closing_since",
        "credit",
        "end_queued",
        "end_sent",
        "ended",
        "failure",
        "id",
        "in_credits",
        "in_ready",
        "on_readable",
        "on_sendable",
        "priority",
        "protocol",
        "queued",
        "reading_over",
        "stopped",
        "window",
    )

    def __init__(
        self, stream_id: int, protocol: str, priority: Priority, budget: WindowBudget, now: float
    ) -> None:
        self.id = stream_id
        self.protocol = protocol
        self.priority = priority
        self.on_readable: Callable[[], None] = _nothing
        self.on_sendable: Callable[[], None] = _nothing
        self.failure: str | None = None
        "Why both directions are over, or None."
        self.buffered = 0
        "Bytes received and not yet read."
        self.allowance = INITIAL_WINDOW
        "Bytes that the peer may still send."
        self.window = INITIAL_WINDOW
        self.ended = False
        "The peer sends no more."
        self.reading_over = False
        "Nobody reads here any more."
        self.queued = 0
        "Bytes taken from the writer and not yet framed."
        self.credit = INITIAL_WINDOW
        "Bytes that may still be sent."
        self.end_queued = False
        self.end_sent = False
        self.stopped: str | None = None
        "Why the peer reads no more, or None."
        self.closing_since: float | None = None
        self.in_ready = False
        self.in_credits = False
        self._chunks: deque[bytes] = deque()
        self._at = 0
        self._scanned = 0
        self._consumed = 0
        self._ahead = 0
        self._ahead_limit = 0
        self._wanted = 0
        self._credited_at = now
        self._pieces: deque[bytes | memoryview] = deque()
        self._budget = budget

    @property
    def sending_over(self) -> bool:
        """Whether nothing more can leave on this stream."""
        return self.end_sent or self.stopped is not None or self.failure is not None

    @property
    def done(self) -> bool:
        """Whether both directions are over, so that its multiplexer can forget it."""
        return self.failure is not None or (self.sending_over and (self.ended or self.reading_over))

    # Receiving

    def feed(self, chunk: bytes) -> None:
        """Bytes from the peer.

        Raises:
            ProtocolError: more than the window allows, or after the end.
        """
        size = len(chunk)
        if size > self.allowance:
            raise ProtocolError(
                f"{size} bytes on stream {self.id}, whose window allows {self.allowance}"
            )
        if self.ended:
            raise ProtocolError(f"bytes on stream {self.id} after its end")
        self.allowance -= size
        if self.reading_over:
            return
        self._chunks.append(chunk)
        self.buffered += size
        if self._ahead_limit:
            self._credit_ahead()
        if self._wanted and self.buffered >= self._wanted:
            self._wanted = 0
            self.on_readable()

    def feed_end(self) -> None:
        """The peer sends no more.

        Raises:
            ProtocolError: it said so before.
        """
        if self.ended:
            raise ProtocolError(f"second end of stream {self.id}")
        self.ended = True
        self.on_readable()

    def want(self, wanted: int, ahead: int) -> None:
        """A reader waits until `wanted` bytes are buffered; `ahead` bytes are meant to be read.

        What a reader is waiting for is credited as if it had been read, or a read that is longer
        than the window would wait for ever.
        """
        self._wanted = wanted
        self._ahead_limit = ahead
        self._credit_ahead()

    def unwant(self) -> None:
        """Nobody waits any more."""
        self._wanted = 0
        self._ahead_limit = 0

    def _credit_ahead(self) -> None:
        fresh = min(self.buffered, self._ahead_limit) - self._ahead
        if fresh > 0:
            self._ahead += fresh
            self._consumed += fresh

    @property
    def front(self) -> int:
        """Bytes that `take` gives without joining pieces."""
        return len(self._chunks[0]) - self._at if self._chunks else 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which must be buffered, without taking them."""
        found = self._chunks[0][self._at : self._at + size]
        for chunk in islice(self._chunks, 1, None):
            if len(found) == size:
                break
            found += chunk[: size - len(found)]
        return found

    def take(self, size: int) -> bytes:
        """The next `size` bytes, or all that are buffered when those are fewer."""
        size = min(size, self.buffered)
        if size == 0:
            return b""
        first = self._chunks[0]
        at = self._at
        if len(first) - at == size:
            self._chunks.popleft()
            self._at = 0
            taken = first[at:] if at else first
        elif len(first) - at > size:
            self._at = at + size
            taken = first[at : at + size]
        else:
            taken = self._join(size)
        self.buffered -= size
        self._scanned = 0
        fresh = size - self._ahead
        if fresh > 0:
            self._consumed += fresh
            self._ahead = 0
        else:
            self._ahead -= size
        return taken

    def _join(self, size: int) -> bytes:
        parts: list[bytes | memoryview] = []
        while size:
            chunk: bytes | memoryview = self._chunks[0]
            if self._at:
                chunk = memoryview(chunk)[self._at :]
            if len(chunk) > size:
                parts.append(memoryview(chunk)[:size])
                self._at += size
                break
            parts.append(chunk)
            size -= len(chunk)
            self._chunks.popleft()
            self._at = 0
        return b"".join(parts)

    def line_length(self, limit: int) -> int:
        """Length of the buffered line with its newline; 0 when none is complete within `limit`."""
        before = -self._at
        for i, chunk in enumerate(self._chunks):
            if before + len(chunk) > self._scanned:
                found = chunk.find(b"\n", max(self._at if i == 0 else 0, self._scanned - before))
                if found >= 0:
                    length = before + found + 1
                    return length if length <= limit else 0
            before += len(chunk)
            if before >= limit:
                break
        self._scanned = min(self.buffered, limit)
        return 0

    @property
    def earned_credit(self) -> bool:
        """Whether so much was read that `credit_due` gives the peer more, if it still sends."""
        return self._consumed * 2 >= self.window

    def credit_due(self, now: float, rtt_s: float) -> int:
        """Credit to grant now, 0 for none yet; the caller sends it."""
        if self._consumed * 2 < self.window or self.ended or self.reading_over:
            return 0
        growth = 0
        if self.window < MAX_WINDOW and now - self._credited_at < 2 * rtt_s:
            growth = self._budget.take(min(self.window, MAX_WINDOW - self.window))
            self.window += growth
        granted = self._consumed + growth
        self._consumed = 0
        self._credited_at = now
        self.allowance += granted
        return granted

    def stop_reading(self) -> None:
        """Drop what is buffered and whatever still comes."""
        self.reading_over = True
        self._forget_received()

    def _forget_received(self) -> None:
        self._chunks.clear()
        self.buffered = self._at = self._scanned = self._ahead = 0

    # Sending

    def check_sendable(self) -> None:
        """Raise PeerGone, with the reason, when nothing can be sent any more."""
        if self.failure is not None:
            raise PeerGone(self.failure)
        if self.stopped is not None:
            raise PeerGone(self.stopped)

    def push(self, piece: bytes | memoryview) -> None:
        """Queue bytes that nobody will change."""
        self._pieces.append(piece)
        self.queued += len(piece)

    def grant(self, credit: int) -> None:
        """The peer allows more.

        Raises:
            ProtocolError: more than any window is.
        """
        self.credit += credit
        if self.credit > MAX_WINDOW:
            raise ProtocolError(f"window of {self.credit} bytes; the limit is {MAX_WINDOW}")

    def sendable(self) -> int:
        """Bytes that could leave now."""
        return min(self.queued, self.credit)

    def has_work(self) -> bool:
        """Whether a data or end frame could leave now."""
        return self.failure is None and (
            self.sendable() > 0 or (self.end_queued and not self.end_sent and not self.queued)
        )

    def gather(self, limit: int, into: list[bytes | memoryview]) -> int:
        """Move at most `limit` sendable bytes to the end of `into`; returns how many."""
        left = size = min(limit, self.queued, self.credit)
        while left:
            piece = self._pieces[0]
            if len(piece) <= left:
                self._pieces.popleft()
                into.append(piece)
                left -= len(piece)
            else:
                view = memoryview(piece)
                into.append(view[:left])
                self._pieces[0] = view[left:]
                left = 0
        full = self.queued >= _RESUME_BELOW
        self.queued -= size
        self.credit -= size
        if full and self.queued < _RESUME_BELOW:
            self.on_sendable()
        return size

    def feed_stop(self, reason: str) -> None:
        """The peer reads no more: what is queued is for nothing."""
        if self.stopped is None:
            self.stopped = reason
            self._drop_queue()
            self.on_sendable()

    def fail(self, reason: str) -> None:
        """Both directions are over; later calls of reader and writer raise PeerGone."""
        if self.failure is None:
            self.failure = reason
            self._forget_received()
            self._drop_queue()
            self.on_readable()
            self.on_sendable()

    def _drop_queue(self) -> None:
        self._pieces.clear()
        self.queued = 0

    def release(self) -> None:
        """Give the growth of the window back; its multiplexer forgets the stream."""
        self._budget.give(self.window - INITIAL_WINDOW)
        self.window = INITIAL_WINDOW
