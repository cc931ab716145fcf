"""The receiving half of a stream, without I/O: its buffer, pending read and window."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

from aitorrent_transport.streams.windows import INITIAL_WINDOW, MAX_WINDOW, WindowBudget
from aitorrentd.api import ProtocolError


def _nothing() -> None:
    return None


class ReceivingHalf:
    """Bytes received on one stream and not yet read.

    `on_readable` is called when the wanted bytes are buffered or can no longer arrive. `stream_id`
    is for messages. Callers pass `now` in seconds of a monotonic clock.
    """

    __slots__ = (
        "_ahead",
        "_ahead_limit",
        "_at",
        "_budget",
        "_chunks",
        "_consumed",
        "_credited_at",
        "_scanned",
        "_stream_id",
        "_wanted",
        "allowance",
        "buffered",
        "closed",
        "ended",
        "granted",
        "on_readable",
        "window",
    )

    def __init__(self, stream_id: int, budget: WindowBudget, now: float) -> None:
        self.on_readable: Callable[[], None] = _nothing
        self.buffered = 0
        "Bytes received and not yet read."
        self.allowance = INITIAL_WINDOW
        "Bytes that the peer may still send."
        self.granted = INITIAL_WINDOW
        "Bytes that the peer might have sent so far, in all."
        self.window = INITIAL_WINDOW
        self.ended = False
        "The peer ended its direction."
        self.closed = False
        "Closed for reading; further bytes are dropped."
        self._stream_id = stream_id
        self._chunks: deque[bytes] = deque()
        self._at = 0
        self._scanned = 0
        self._consumed = 0
        self._ahead = 0
        self._ahead_limit = 0
        self._wanted = 0
        self._credited_at = now
        self._budget = budget

    def feed(self, chunk: bytes) -> None:
        """Buffer bytes from the peer.

        Raises:
            ProtocolError: more than the window allows, or after the end.
        """
        size = len(chunk)
        if size > self.allowance:
            raise ProtocolError(
                f"{size} bytes on stream {self._stream_id}, whose window allows {self.allowance}"
            )
        if self.ended:
            raise ProtocolError(f"bytes on stream {self._stream_id} after its end")
        self.allowance -= size
        if self.closed:
            return
        self._chunks.append(chunk)
        self.buffered += size
        if self._ahead_limit:
            self._credit_ahead()
        if self._wanted and self.buffered >= self._wanted:
            self._wanted = 0
            self.on_readable()

    def feed_end(self) -> None:
        """Note that the peer ended its direction.

        Raises:
            ProtocolError: it had already ended.
        """
        if self.ended:
            raise ProtocolError(f"second end of stream {self._stream_id}")
        self.ended = True
        self.on_readable()

    def want(self, wanted: int, ahead: int) -> None:
        """Register a reader that waits for `wanted` bytes and intends to read `ahead` bytes.

        Bytes that a reader waits for are credited as if read; otherwise a read longer than the
        window would never finish.
        """
        self._wanted = wanted
        self._ahead_limit = ahead
        self._credit_ahead()

    def unwant(self) -> None:
        """Unregister the waiting reader."""
        self._wanted = 0
        self._ahead_limit = 0

    def _credit_ahead(self) -> None:
        fresh = min(self.buffered, self._ahead_limit) - self._ahead
        if fresh > 0:
            self._ahead += fresh
            self._consumed += fresh

    @property
    def received(self) -> int:
        """Bytes that arrived, whether read or not."""
        return self.granted - self.allowance

    @property
    def front(self) -> int:
        """Bytes that `take` returns without joining pieces."""
        return len(self._chunks[0]) - self._at if self._chunks else 0

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, which must be buffered, without consuming them."""
        found = self._chunks[0][self._at : self._at + size]
        for chunk in islice(self._chunks, 1, None):
            if len(found) == size:
                break
            found += chunk[: size - len(found)]
        return found

    def take(self, size: int) -> bytes:
        """Consume and return the next `size` bytes, or all buffered bytes if fewer."""
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
        """Length of the buffered line with its newline; 0 if none is complete within `limit`."""
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
        """Whether enough was read that `credit_due` grants more, if the peer still sends."""
        return self._consumed * 2 >= self.window

    def credit_due(self, now: float, rtt_s: float) -> int:
        """Credit to grant now, or 0; the caller sends it."""
        if self._consumed * 2 < self.window or self.ended or self.closed:
            return 0
        growth = 0
        if self.window < MAX_WINDOW and now - self._credited_at < 2 * rtt_s:
            growth = self._budget.take(min(self.window, MAX_WINDOW - self.window))
            self.window += growth
        granted = self._consumed + growth
        self._consumed = 0
        self._credited_at = now
        self.allowance += granted
        self.granted += granted
        return granted

    def close(self) -> None:
        """Drop buffered bytes and any that still arrive."""
        self.closed = True
        self._chunks.clear()
        self.buffered = self._at = self._scanned = self._ahead = 0

    def release(self) -> None:
        """Return the window growth to the budget and drop the reader: the stream is over."""
        self.on_readable = _nothing
        self._budget.give(self.window - INITIAL_WINDOW)
        self.window = INITIAL_WINDOW
