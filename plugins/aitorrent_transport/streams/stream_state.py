"""One end of a stream, without I/O: its receiving and sending halves and how they end."""

from __future__ import annotations

from aitorrent_transport.streams.receiving import ReceivingHalf
from aitorrent_transport.streams.sending import SendingHalf, nothing
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import Priority


class StreamState:
    """State of one stream end. Bytes pass through its halves, which end separately or together."""

    __slots__ = (
        "closing_since",
        "failure",
        "id",
        "in_ready",
        "priority",
        "protocol",
        "receiving",
        "sending",
    )

    def __init__(
        self, stream_id: int, protocol: str, priority: Priority, budget: WindowBudget, now: float
    ) -> None:
        self.id = stream_id
        self.protocol = protocol
        self.priority = priority
        self.receiving = ReceivingHalf(stream_id, budget, now)
        self.sending = SendingHalf()
        self.failure: str | None = None
        "Why both directions ended, or None."
        self.closing_since: float | None = None
        "When both directions were first seen closed here, or None."
        self.in_ready = False
        "Whether it is queued for its turn in the multiplexer."

    @property
    def closed_here(self) -> bool:
        """Whether this end no longer reads or writes."""
        return self.sending.end_queued and self.receiving.closed

    @property
    def done(self) -> bool:
        """Whether both directions are over, so that its multiplexer can forget it."""
        receiving = self.receiving
        return self.failure is not None or (
            self.sending.over and (receiving.ended or receiving.closed)
        )

    def release(self) -> None:
        """Drop references after the stream ended, so that no cycle keeps it in memory."""
        self.receiving.release()
        self.sending.on_sendable = nothing

    def fail(self, reason: str) -> None:
        """End both directions; later calls of reader and writer raise PeerGone."""
        if self.failure is None:
            self.failure = reason
            self.receiving.close()
            self.sending.stop(reason)
            self.receiving.on_readable()
