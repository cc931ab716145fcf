"""The sending half of a stream, without I/O: its queue and the peer's credit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from aitorrent_transport.streams.windows import INITIAL_WINDOW, MAX_WINDOW
from aitorrentd.api import ProtocolError

SEND_QUEUE_BYTES: Final = 1024 * 1024
"Bytes that a stream queues before its writer has to wait."
_RESUME_BELOW: Final = SEND_QUEUE_BYTES // 2


def nothing() -> None:
    """Default for a callback that is not set."""


class SendingHalf:
    """Bytes that a writer queued on one stream and that are not sent yet.

    `on_sendable` is called when a full queue has space again or nothing more can be sent.
    """

    __slots__ = (
        "_pieces",
        "credit",
        "end_queued",
        "end_sent",
        "granted",
        "on_sendable",
        "queued",
        "stopped",
    )

    def __init__(self) -> None:
        self.on_sendable: Callable[[], None] = nothing
        self.queued = 0
        "Bytes accepted from the writer and not yet framed."
        self.credit = INITIAL_WINDOW
        "Bytes that may still be sent."
        self.granted = INITIAL_WINDOW
        "Bytes that the peer has allowed so far, in all."
        self.end_queued = False
        "The writer has finished."
        self.end_sent = False
        self.stopped: str | None = None
        "Why nothing more can be sent, or None."
        self._pieces: deque[bytes | memoryview] = deque()

    @property
    def over(self) -> bool:
        """Whether nothing more can be sent."""
        return self.end_sent or self.stopped is not None

    @property
    def sent(self) -> int:
        """Bytes that were framed for the peer."""
        return self.granted - self.credit

    def push(self, piece: bytes | memoryview) -> None:
        """Queue bytes that the caller will not modify."""
        self._pieces.append(piece)
        self.queued += len(piece)

    def grant(self, credit: int) -> None:
        """Add credit from the peer.

        Raises:
            ProtocolError: the total exceeds the maximum window.
        """
        self.credit += credit
        self.granted += credit
        if self.credit > MAX_WINDOW:
            raise ProtocolError(f"window of {self.credit} bytes; the limit is {MAX_WINDOW}")

    def sendable(self) -> int:
        """Bytes that could be sent now."""
        return min(self.queued, self.credit)

    def has_work(self) -> bool:
        """Whether a data or end frame could be sent now."""
        return self.stopped is None and (
            self.sendable() > 0 or (self.end_queued and not self.end_sent and not self.queued)
        )

    def gather(self, limit: int, into: list[bytes | memoryview]) -> int:
        """Move at most `limit` sendable bytes to the end of `into`; return how many."""
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

    def stop(self, reason: str) -> None:
        """Drop queued bytes and accept no more, because the peer stopped reading."""
        if self.stopped is None:
            self.stopped = reason
            self._pieces.clear()
            self.queued = 0
            self.on_sendable()
