"""A channel: one secure link with its multiplexer and keepalive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aitorrent_transport.streams.frames import MAX_DATA_BYTES
from aitorrent_transport.streams.moving import Mover
from aitorrent_transport.streams.mux import Mux
from aitorrent_transport.streams.pings import MAX_PINGS, Pings
from aitorrent_transport.streams.secure_link import SecureLink
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.traffic import Traffic
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import (
    Busy,
    Clock,
    PeerGone,
    Priority,
    ProtocolError,
    TimedOut,
    Unavailable,
    short,
)

_TURN_BYTES: Final = 256 * 1024  # sent before yielding; frames from other tasks go first
_LINGER_S: Final = 60.0  # grace for a peer that does not read the rest of a stream closed here


def ignore(*_: object) -> None:
    """Placeholder for callbacks of a closed channel."""


class Channel:
    """Streams and pings with one peer over one link.

    Set `on_greeted(channel, greeting)`, `on_stream(channel, state)`, `on_duplicate(channel, where)`
    and `on_closed(channel, reason, fault)` before `start`; `fault` is the ProtocolError of a peer
    that violated the protocol, else None. `where` is the address of another node with this node's
    key. `on_moved(channel)` is called when both directions continue on another `link`.
    """

    def __init__(
        self,
        link: SecureLink,
        *,
        clock: Clock,
        budget: WindowBudget,
        traffic: Traffic | None = None,
        keepalive_s: float,
        greeting: Mapping[str, Any],
    ) -> None:
        self.link = link
        self.peer = link.peer
        self.greeting = greeting
        "What this side says about itself first."
        self.mux = Mux(dialer=link.outbound, budget=budget, traffic=traffic)
        self.on_stream: Callable[[Channel, StreamState], None] = lambda channel, state: None
        self.on_closed: Callable[[Channel, str, ProtocolError | None], None] = lambda *_: None
        self.on_greeted: Callable[[Channel, Mapping[str, Any]], None] = lambda channel, hello: None
        self.on_duplicate: Callable[[Channel, str], None] = lambda channel, where: None
        self.on_moved: Callable[[Channel], None] = ignore
        self.opened_at = clock.monotonic()
        self.closed: str | None = None
        "Why the channel ended, or None."
        self.fault: ProtocolError | None = None
        self.retired_here = False
        self.retired_there = False
        self.stalled = False
        "Whether the channel was abandoned because its path seems to drop large packets."
        self.suspect = False
        "Whether a newer channel to the same peer casts doubt on this one."
        self.mover = Mover(link, use=self._use, on_moved=self._moved, on_failed=self.lose)
        self._clock = clock
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._greeted: asyncio.Future[Mapping[str, Any] | Unavailable] = self._loop.create_future()
        self._pings = Pings(keepalive_s, self.opened_at)
        self._flush_handle: asyncio.Handle | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self.mux.on_open = lambda state: self.on_stream(self, state)
        self.mux.on_pong = self._take_pong
        self.mux.on_hello = self._take_hello
        self.mux.on_retire = self._take_retire
        self.mux.on_duplicate = lambda where: self.on_duplicate(self, where)
        self.mux.on_move = self.mover.take_move

    def __repr__(self) -> str:
        way = "to" if self.link.outbound else "from"
        return f"<channel {way} {short(self.peer)} at {self.link.route.location}>"

    # Life

    def start(self) -> None:
        """Greet the peer and start receiving."""
        self.link.on_record = self._take_record
        self.link.on_lost = self._take_loss
        self.link.on_writable = self._flush
        self.mux.hello(self.greeting)
        self.link.start()
        if self.closed is None:
            self._flush()
            self._tick_handle = self._loop.call_later(self._tick_s, self._tick)

    async def greeted(self, timeout_s: float) -> Mapping[str, Any]:
        """Wait for the peer's greeting, which brings the channel up.

        Raises:
            Unavailable: the peer closed the channel, with its reason if it gave one. TimedOut.
        """
        try:
            async with asyncio.timeout(timeout_s):
                greeting = await asyncio.shield(self._greeted)
        except TimeoutError:
            self.close("no greeting in time")
            raise TimedOut(f"{short(self.peer)} did not greet within {timeout_s:g} s") from None
        if isinstance(greeting, Unavailable):
            raise Unavailable(greeting.message)
        return greeting

    def close(self, reason: str) -> None:
        """Close gracefully; pending calls on the channel raise PeerGone."""
        if self.closed is None:
            self._send_ready()
            self.mover.close(reason)
            self.link.close(reason)
            self._finish(f"closed here: {reason}")

    def _finish(self, reason: str) -> None:
        if self.closed is not None:
            return
        self.closed = reason
        for handle in (self._flush_handle, self._tick_handle):
            if handle is not None:
                handle.cancel()
        self.mover.end()
        self.mux.fail(f"the channel ended: {reason}")
        self._pings.fail(lambda: PeerGone(f"{short(self.peer)}: {reason}"))
        if not self._greeted.done():
            self._greeted.set_result(Unavailable(f"{short(self.peer)}: {reason}"))
        self.on_closed(self, reason, self.fault)
        self._let_go()

    def _let_go(self) -> None:
        """Drop back references, so that no cycle keeps a closed channel in memory."""
        link, mux = self.link, self.mux
        link.on_record = link.on_lost = link.on_writable = ignore
        mux.on_open = mux.on_pong = mux.on_hello = mux.on_retire = mux.on_duplicate = ignore
        mux.on_move = ignore

    def _take_loss(self, reason: str) -> None:
        self._finish(reason or "the connection was lost")

    # Records

    def _take_record(self, record: memoryview) -> None:
        if self.closed is not None:
            return
        try:
            self.mux.receive(record, self._clock.monotonic())
        except ProtocolError as e:
            self.fault = e
            self.close(f"protocol error: {e.message}")
        else:
            if self.mux.has_output:
                self._flush_soon()

    def _flush_soon(self) -> None:
        # One loop iteration gathers the small frames of all tasks about to write.
        if self._flush_handle is None and self.closed is None:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._send_ready()
        if self.retired_here and self.retired_there and not len(self.mux):
            self.close("replaced by another channel")

    def _send_ready(self) -> None:
        link, mux = self.link, self.mux
        begun = link.bytes_out
        while self.closed is None and link.writable and (parts := mux.next_record()) is not None:
            link.send(*parts)
            if link.bytes_out - begun >= _TURN_BYTES:
                self._flush_soon()
                break
        link.flush()

    def _take_hello(self, greeting: Mapping[str, Any]) -> None:
        self._pings.hear(self._clock.monotonic())
        if not self._greeted.done():
            self._greeted.set_result(greeting)
        self.on_greeted(self, greeting)
        self._ping(None)

    # Streams; the methods of this section implement `stream.Carrier`

    def open(self, protocol: str, priority: Priority) -> ChannelStream:
        """Open a stream to the peer; returns as soon as the request is queued.

        Raises:
            Busy: too many are open. PeerGone: the channel is closed.
        """
        if self.closed is not None:
            raise PeerGone(f"{short(self.peer)}: {self.closed}")
        state = self.mux.open(protocol, priority, self._clock.monotonic())
        self._flush_soon()
        return ChannelStream(state, self, self.peer)

    def pump(self, state: StreamState) -> None:
        """Send a stream's queued bytes or credit soon."""
        if self.mux.touch(state, self._clock.monotonic()):
            # A token depends on a tensor: do not wait even for the end of this loop iteration.
            if state.priority == Priority.TENSOR or state.sending.sendable() >= MAX_DATA_BYTES:
                self._flush()
            else:
                self._flush_soon()

    def reset(self, state: StreamState, reason: str) -> None:
        """End both directions of a stream immediately."""
        self.mux.reset(state, reason)
        self._flush_soon()

    def stop(self, state: StreamState, reason: str) -> None:
        """Stop reading from a stream."""
        self.mux.stop(state, reason)
        self._flush_soon()

    # Two channels to one peer

    def retire(self) -> None:
        """Prefer another channel: open no more streams, close when both sides are done."""
        if not self.retired_here and self.closed is None:
            self.retired_here = True
            self.mux.retire()
            self._flush_soon()

    def tell_duplicate(self, where: str) -> None:
        """Tell the peer that another node with its key is connected from `where`."""
        if self.closed is None:
            self.mux.duplicate(where)
            self._flush_soon()

    def _take_retire(self) -> None:
        self.retired_there = True
        self._flush_soon()

    # Links

    @property
    def bytes_in(self) -> int:
        """Bytes received, on this link and earlier ones."""
        return self.mover.earlier_in + self.link.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes sent, on this link and earlier ones."""
        return self.mover.earlier_out + self.link.bytes_out

    def _use(self, link: SecureLink) -> None:
        """Continue on another link."""
        self.link = link
        link.on_record = self._take_record
        link.on_lost = self._take_loss
        link.on_writable = self._flush
        self._flush_soon()

    def _moved(self) -> None:
        self._pings.restart()
        self._ping(None)
        self.on_moved(self)

    # Pings

    async def ping(self, timeout_s: float) -> float:
        """Measured round-trip time in seconds.

        Raises:
            TimedOut: no reply. PeerGone: the channel ended. Busy: too many pings in flight.
        """
        if self.closed is not None:
            raise PeerGone(f"{short(self.peer)}: {self.closed}")
        if self._pings.is_full:
            raise Busy(f"{MAX_PINGS} pings to {short(self.peer)} are unanswered")
        answer: asyncio.Future[float] = self._loop.create_future()
        nonce = self._ping(answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise TimedOut(
                f"{short(self.peer)} did not answer a ping within {timeout_s:g} s"
            ) from None
        finally:
            self._pings.forget(nonce)
            del answer  # its error would keep this frame alive

    async def probe(self, timeout_s: float) -> None:
        """Ask whether the peer still answers; a move to another link has its own time limit.

        Raises:
            As `ping`.
        """
        await self.mover.settled()
        await self.ping(timeout_s)

    def _ping(self, answer: asyncio.Future[float] | None) -> bytes:
        nonce = self._pings.begin(self._clock.monotonic(), answer)
        self.mux.ping(nonce)
        self._flush()
        return nonce

    def _take_pong(self, nonce: bytes) -> None:
        if not self._pings.take(nonce, self._clock.monotonic()):
            return
        # Windows must not grow from the delay that their own data causes.
        self.mux.rtt_s = self._pings.least_rtt_s
        if not self.rtt_known and self.closed is None:
            self._ping(None)

    @property
    def srtt_s(self) -> float | None:
        """Median of recent round-trip times; None before the first."""
        return self._pings.srtt_s

    @property
    def rtt_known(self) -> bool:
        """Whether enough pings were answered for a reliable estimate."""
        return self._pings.rtt_known

    @property
    def _tick_s(self) -> float:
        return self._keepalive_s / 5

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if lost := self._pings.check(now, self.bytes_in, is_unheard=self.link.is_unheard()):
            self.lose(lost)
            return
        if self._pings.is_due(now):
            self._ping(None)
        for state in self.mux.states():
            self._expire(state, now)
        if self.closed is None:
            self._flush()
            self._tick_handle = self._loop.call_later(self._tick_s, self._tick)

    def _expire(self, state: StreamState, now: float) -> None:
        if not state.closed_here:
            return
        if state.closing_since is None:
            state.closing_since = now
        elif now - state.closing_since >= _LINGER_S:
            self.mux.reset(state, "closed with unread data")

    def lose(self, reason: str) -> None:
        """Abandon a channel that no longer works."""
        self.stalled = self.link.is_stalled()
        self.link.abort()
        self._finish(reason)
