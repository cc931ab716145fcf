"""Streams from a node to itself: the same back-pressure and endings, without a channel."""

from __future__ import annotations

from collections.abc import Callable

from aitorrent_transport.streams.frames import MAX_DATA_BYTES
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.stream_state import StreamState, WindowBudget
from aitorrentd.api import PeerId, Priority


class _LocalPair:
    """Carries bytes between two cores in one process; a `Carrier` for both."""

    def __init__(self, a: StreamState, b: StreamState, now: Callable[[], float]) -> None:
        self._other = {id(a): b, id(b): a}
        self._now = now
        self._moving = self._again = False

    def pump(self, core: StreamState) -> None:
        """Move what can move both ways; bytes that move may earn credit for more.

        Who reads them may do so at once, and write: that moves when what moves now has arrived.
        """
        self._again = True
        if self._moving:
            return
        self._moving = True
        try:
            other = self._other[id(core)]
            while self._again:
                self._again = False
                while self._move(core, other) or self._move(other, core):
                    pass
        finally:
            self._moving = False

    def _move(self, source: StreamState, target: StreamState) -> bool:
        due = target.credit_due(self._now(), 0.0)
        if due:
            source.grant(due)
        parts: list[bytes | memoryview] = []
        moved = source.gather(MAX_DATA_BYTES, parts)
        for part in parts:
            if target.failure is None:  # its reader may reset the stream at any part
                target.feed(bytes(part))
        if source.has_work() and not source.queued:
            source.end_sent = True
            target.feed_end()
        return moved > 0

    def reset(self, core: StreamState, reason: str) -> None:
        """End both directions at both ends."""
        if not core.done:
            self._other[id(core)].fail(f"reset by the peer: {reason or 'no reason given'}")
        core.fail(reason or "reset")

    def stop(self, core: StreamState, reason: str) -> None:
        """Read no more at this end; the other end's writes fail."""
        if not core.reading_over:
            core.stop_reading()
            if not core.ended:
                self._other[id(core)].feed_stop(f"the peer reads no more: {reason}")


def local_streams(
    node: PeerId, protocol: str, priority: Priority, now: Callable[[], float]
) -> tuple[ChannelStream, ChannelStream]:
    """Both ends of a stream from `node` to itself: (opener's, handler's)."""
    budget = WindowBudget(0)
    a = StreamState(1, protocol, priority, budget, now())
    b = StreamState(1, protocol, priority, budget, now())
    pair = _LocalPair(a, b, now)
    return ChannelStream(a, pair, node), ChannelStream(b, pair, node)
