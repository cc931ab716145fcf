"""Streams from a node to itself: same back-pressure and close semantics, no channel."""

from __future__ import annotations

from collections.abc import Callable

from aitorrent_transport.streams.frames import MAX_DATA_BYTES
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import PeerId, Priority


class _LocalPair:
    """Carries bytes between two stream ends in one process; a `Carrier` for both."""

    def __init__(self, a: StreamState, b: StreamState, now: Callable[[], float]) -> None:
        self._other = {id(a): b, id(b): a}
        self._now = now
        self._moving = self._again = False

    def pump(self, state: StreamState) -> None:
        """Move all possible bytes in both directions; moved bytes may earn credit for more.

        A reader may react at once and write: those bytes move after the current ones have arrived.
        """
        self._again = True
        if self._moving:
            return
        self._moving = True
        try:
            other = self._other[id(state)]
            while self._again:
                self._again = False
                while self._move(state, other) or self._move(other, state):
                    pass
        finally:
            self._moving = False
        self._release(state)

    def _release(self, state: StreamState) -> None:
        other = self._other[id(state)]
        if state.done and other.done:
            state.release()
            other.release()

    def _move(self, source: StreamState, target: StreamState) -> bool:
        sending, receiving = source.sending, target.receiving
        due = receiving.credit_due(self._now(), 0.0)
        if due:
            sending.grant(due)
        parts: list[bytes | memoryview] = []
        moved = sending.gather(MAX_DATA_BYTES, parts)
        for part in parts:
            if target.failure is None:  # its reader may reset the stream after any part
                receiving.feed(bytes(part))
        if sending.has_work() and not sending.queued:
            sending.end_sent = True
            receiving.feed_end()
        return moved > 0

    def reset(self, state: StreamState, reason: str) -> None:
        """End both directions at both ends."""
        if not state.done:
            self._other[id(state)].fail(f"reset by the peer: {reason or 'no reason given'}")
        state.fail(reason or "reset")
        self._release(state)

    def stop(self, state: StreamState, reason: str) -> None:
        """Stop reading at this end; the other end's writes fail."""
        if not state.receiving.closed:
            state.receiving.close()
            if not state.receiving.ended:
                self._other[id(state)].sending.stop(f"the peer has stopped reading: {reason}")
            self._release(state)


def local_streams(
    node: PeerId, protocol: str, priority: Priority, now: Callable[[], float]
) -> tuple[ChannelStream, ChannelStream]:
    """Both ends of a stream from `node` to itself: (opener's, handler's)."""
    budget = WindowBudget(0)
    a = StreamState(1, protocol, priority, budget, now())
    b = StreamState(1, protocol, priority, budget, now())
    pair = _LocalPair(a, b, now)
    return ChannelStream(a, pair, node), ChannelStream(b, pair, node)
