"""Stream multiplexer: records in, records out. No I/O and no clock: callers pass `now`.

Per-stream credit follows yamux. Priority classes (control, tensor, bulk) are strict, except that
each waiting lower class gets about a twentieth of the bytes; streams within a class take turns. All
state that a peer can make us hold is bounded: streams, queued control frames, receive windows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from aitorrent_transport.streams.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_DATA_BYTES,
    MAX_RECORD_BYTES,
    Kind,
    frame,
    read_credit,
    read_nonce,
    read_place,
    read_protocol,
    read_reason,
    reason_bytes,
    window_frame,
)
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.traffic import Traffic
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import Busy, PeerGone, Priority, ProtocolError, pack, unpack_map

MAX_STREAMS: Final = 256
"Open streams per opening side."
MAX_URGENT_FRAMES: Final = 2048
MAX_PONGS: Final = 16
MAX_HELLO_BYTES: Final = 8192
_FLOOR_SHARE: Final = 19  # a waiting class is owed 1 byte per 19 of the others: 5 %
_FLOOR_BYTES: Final = 16 * 1024  # paid in frames small enough not to delay the higher class
_LEAST_DATA: Final = 8192  # with less space left in a record, data waits for the next
_CLASSES: Final = (0, 1, 2)  # Priority, as plain numbers: this is the hot path
_DATA: Final = int(Kind.DATA)
_RTT_UNKNOWN_S: Final = 0.05
_LEAST_RTT_S: Final = 0.00025  # time to wake both processes, on any network

Part = bytes | memoryview


class Mux:
    """The streams of one channel.

    The owner sets the callbacks, feeds records and sends what `next_record` returns whenever the
    link is writable. `on_open(state)` receives a stream that the peer opened (and may `reset` it at
    once); `on_pong(nonce)`, `on_hello(map)`, `on_retire()`, `on_duplicate(where)` and
    `on_move(place)` receive the contents of their frames.
    """

    def __init__(
        self, *, dialer: bool, budget: WindowBudget, traffic: Traffic | None = None
    ) -> None:
        self.on_open: Callable[[StreamState], None] = lambda state: self.reset(state, "not served")
        self.on_pong: Callable[[bytes], None] = lambda nonce: None
        self.on_hello: Callable[[Mapping[str, Any]], None] = lambda hello: None
        self.on_retire: Callable[[], None] = lambda: None
        self.on_duplicate: Callable[[str], None] = lambda where: None
        self.on_move: Callable[[bytes], None] = lambda place: None
        self.rtt_s = _RTT_UNKNOWN_S
        "Unloaded round-trip time, for window growth; the owner keeps it current."
        self._streams: dict[int, StreamState] = {}
        self._next_id = 1 if dialer else 2
        self._last_inbound = 0
        self._inbound_parity = 0 if dialer else 1
        self._inbound = 0
        self._budget = budget
        self._traffic = traffic or Traffic()
        self._urgent: deque[bytes] = deque()
        self._pongs = 0
        self._credits: deque[tuple[StreamState, int]] = deque()
        self._ready: tuple[deque[StreamState], ...] = (deque(), deque(), deque())
        self._owed = [0, 0, 0]
        self._greeted = False

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def outbound(self) -> int:
        """Number of open streams that this side opened."""
        return len(self._streams) - self._inbound

    def states(self) -> list[StreamState]:
        """Open streams."""
        return list(self._streams.values())

    # Requests from the owner

    def hello(self, greeting: Mapping[str, Any]) -> None:
        """Queue the greeting that must be the first frame.

        Raises:
            ProtocolError: too long.
        """
        packed = pack(dict(greeting))
        if len(packed) > MAX_HELLO_BYTES:
            raise ProtocolError(f"greeting of {len(packed)} bytes; the limit is {MAX_HELLO_BYTES}")
        self._say(frame(Kind.HELLO, 0, packed))

    def ping(self, nonce: bytes) -> None:
        """Queue a ping."""
        self._say(frame(Kind.PING, 0, nonce))

    def retire(self) -> None:
        """Queue the notice that another channel is preferred."""
        self._say(frame(Kind.RETIRE, 0))

    def duplicate(self, where: str) -> None:
        """Queue the notice that another node with the peer's key is connected from `where`."""
        self._say(frame(Kind.DUPLICATE, 0, reason_bytes(where)))

    def open(self, protocol: str, priority: Priority, now: float) -> StreamState:
        """Open a stream.

        Raises:
            Busy: 256 of our streams are open, or the peer does not read. PeerGone: stream ids are
            exhausted, after 2^31 streams.
        """
        if self.outbound >= MAX_STREAMS:
            raise Busy(f"{MAX_STREAMS} streams are open to this peer; close some first")
        if len(self._urgent) > MAX_URGENT_FRAMES // 2:
            raise Busy("this peer has stopped reading")
        if self._next_id >= 1 << 32:
            raise PeerGone("this channel has run out of stream ids; reconnect")
        state = StreamState(self._next_id, protocol, priority, self._budget, now)
        self._next_id += 2
        self._streams[state.id] = state
        self._say(frame(Kind.OPEN, state.id, protocol.encode("ascii")))
        return state

    def reset(self, state: StreamState, reason: str) -> None:
        """End both directions at once and tell the peer."""
        if state.id in self._streams:
            self._say(frame(Kind.RESET, state.id, reason_bytes(reason)))
            state.fail(reason or "reset")
            self._forget(state)

    def stop(self, state: StreamState, reason: str) -> None:
        """Stop reading from a stream and tell the peer."""
        receiving = state.receiving
        if state.id in self._streams and not receiving.closed:
            receiving.close()
            if not receiving.ended:
                self._say(frame(Kind.STOP, state.id, reason_bytes(reason)))
            self._forget_if_done(state)

    def touch(self, state: StreamState, now: float) -> bool:
        """Note that bytes were queued or read; return whether anything can be sent now."""
        if state.id not in self._streams:
            return False
        due = state.receiving.credit_due(now, max(self.rtt_s, _LEAST_RTT_S))
        if due:
            self._credits.append((state, due))
        if not state.in_ready and state.sending.has_work():
            state.in_ready = True
            self._ready[state.priority].append(state)
        return bool(due) or state.in_ready

    def fail(self, reason: str) -> None:
        """End every stream because the channel ended."""
        self._urgent.clear()
        self._credits.clear()
        for state in self.states():
            state.fail(reason)
            self._forget(state)

    # Records out

    @property
    def has_output(self) -> bool:
        """Whether `next_record` would return something."""
        return bool(self._urgent or self._credits or any(self._ready))

    def next_record(self) -> list[Part] | None:
        """The parts of the next record, or None when nothing can be sent."""
        parts: list[Part] = []
        room = MAX_RECORD_BYTES
        while self._urgent and len(self._urgent[0]) <= room:
            piece = self._urgent.popleft()
            parts.append(piece)
            room -= len(piece)
        if not self._urgent:
            self._pongs = 0
        while self._credits and room >= HEADER_BYTES + 4:
            state, due = self._credits.popleft()
            if not state.done:
                parts.append(window_frame(state.id, due))
                room -= HEADER_BYTES + 4
        while not self._urgent and room >= HEADER_BYTES + _LEAST_DATA:
            taken = self._pick()
            if taken is None:
                break
            state, limit = taken
            room -= self._emit(state, limit, room - HEADER_BYTES, parts)
        return parts or None

    def _pick(self) -> tuple[StreamState, int] | None:
        """The stream whose turn it is, and how much it may send."""
        chosen = -1
        limit = MAX_DATA_BYTES
        for c in _CLASSES:
            queue = self._ready[c]
            while queue and not queue[0].sending.has_work():
                queue.popleft().in_ready = False
            if not queue:
                self._owed[c] = 0
            elif chosen < 0:
                chosen = c
            elif self._owed[c] >= _FLOOR_BYTES * _FLOOR_SHARE:
                chosen, limit = c, _FLOOR_BYTES
        if chosen < 0:
            return None
        return self._ready[chosen].popleft(), limit

    def _emit(self, state: StreamState, limit: int, room: int, parts: list[Part]) -> int:
        """Add the stream's next frames to a record; return their size in bytes."""
        state.in_ready = False
        sending = state.sending
        used = size = 0
        if sending.sendable():
            at = len(parts)
            size = sending.gather(min(limit, room), parts)
            parts.insert(at, HEADER.pack(_DATA, state.id, size))
            used = HEADER_BYTES + size
            mine = state.priority
            self._owed[mine] = max(0, self._owed[mine] - size * _FLOOR_SHARE)
            for c in _CLASSES[mine + 1 :]:
                self._owed[c] += size
        if sending.end_queued and not sending.queued and not sending.end_sent:
            parts.append(frame(Kind.END, state.id))
            sending.end_sent = True
            used += HEADER_BYTES
            self._forget_if_done(state)
        elif sending.has_work():
            state.in_ready = True
            queue = self._ready[state.priority]
            # A turn cut short by the end of a record continues in the next one.
            (queue.appendleft if room <= size < limit else queue.append)(state)
        return used

    # Records in

    def receive(self, record: memoryview, now: float) -> None:
        """Process one record; bytes that are kept are copied.

        Raises:
            ProtocolError: the peer violated the protocol; close the channel.
        """
        at, end = 0, len(record)
        if not end:
            raise ProtocolError("empty record")
        streams = self._streams
        while at < end:
            if end - at < HEADER_BYTES:
                raise ProtocolError(f"{end - at} stray bytes at the end of a record")
            kind, stream_id, size = HEADER.unpack_from(record, at)
            at += HEADER_BYTES
            stop = at + size
            if stop > end:
                raise ProtocolError(f"frame of {size} bytes in a record with {end - at} left")
            if kind == _DATA and (state := streams.get(stream_id)) is not None:
                if not 0 < size <= MAX_DATA_BYTES:
                    raise ProtocolError(f"data frame of {size} bytes; the limit is 1 to 61440")
                receiving = state.receiving
                receiving.feed(bytes(record[at:stop]))
                if receiving.earned_credit and not receiving.closed:
                    self.touch(state, now)
            else:
                self._take(kind, stream_id, record[at:stop], now)
            at = stop
        if len(self._urgent) > MAX_URGENT_FRAMES:
            raise ProtocolError("the peer requests more answers than it reads")

    def _take(self, kind: int, stream_id: int, payload: memoryview, now: float) -> None:
        if not self._greeted:
            if kind == Kind.JOIN:
                return  # the channel that the peer meant no longer exists here
            if kind != Kind.HELLO:
                raise ProtocolError(f"frame of kind {kind} before the greeting")
        elif kind == Kind.HELLO:
            raise ProtocolError("second greeting")
        match kind:
            case Kind.PING | Kind.PONG | Kind.HELLO | Kind.RETIRE | Kind.DUPLICATE:
                if stream_id != 0:
                    raise ProtocolError(f"frame of kind {kind} with stream id {stream_id}")
                self._take_channel(kind, payload)
            case Kind.OPEN:
                self._take_open(stream_id, read_protocol(payload), now)
            case Kind.DATA | Kind.WINDOW | Kind.END | Kind.STOP | Kind.RESET:
                self._take_stream(kind, stream_id, payload, now)
            case Kind.MOVE if stream_id == 0:
                self.on_move(read_place(payload))
            case _:
                raise ProtocolError(f"frame of unknown kind {kind}")

    def _take_channel(self, kind: int, payload: memoryview) -> None:
        if kind == Kind.PING:
            # A peer that pings faster than we can reply gets fewer replies, not more memory.
            nonce = read_nonce(payload)
            if self._pongs < MAX_PONGS:
                self._pongs += 1
                self._say(frame(Kind.PONG, 0, nonce))
        elif kind == Kind.PONG:
            self.on_pong(read_nonce(payload))
        elif kind == Kind.RETIRE:
            self.on_retire()
        elif kind == Kind.DUPLICATE:
            self.on_duplicate(read_reason(payload))
        else:
            if len(payload) > MAX_HELLO_BYTES:
                raise ProtocolError(f"greeting of {len(payload)} bytes; the limit is 8192")
            self._greeted = True
            self.on_hello(unpack_map(payload, max_items=256))

    def _take_open(self, stream_id: int, protocol: str, now: float) -> None:
        if stream_id % 2 != self._inbound_parity or stream_id <= self._last_inbound:
            raise ProtocolError(f"stream id {stream_id} is not the opener's next")
        self._last_inbound = stream_id
        if self._inbound >= MAX_STREAMS:
            self._say(frame(Kind.RESET, stream_id, b"too many streams"))
            return
        state = StreamState(stream_id, protocol, Priority.CONTROL, self._budget, now)
        self._streams[stream_id] = state
        self._inbound += 1
        self.on_open(state)

    def _take_stream(self, kind: int, stream_id: int, payload: memoryview, now: float) -> None:
        state = self._streams.get(stream_id)
        if state is None:
            # Frames of a forgotten stream may still be in flight; those of an unopened one may not.
            newest = (
                self._last_inbound if stream_id % 2 == self._inbound_parity else self._next_id - 2
            )
            if not 0 < stream_id <= newest:
                raise ProtocolError(f"frame for stream {stream_id}, which was never opened")
            return
        match kind:
            case Kind.WINDOW:
                state.sending.grant(read_credit(payload))
                self.touch(state, now)
            case Kind.END:
                state.receiving.feed_end()
            case Kind.STOP:
                state.sending.stop(
                    f"the peer has stopped reading: {read_reason(payload) or 'closed'}"
                )
            case _:
                state.fail(f"reset by the peer: {read_reason(payload) or 'no reason given'}")
        if state.done:
            self._forget(state)

    # Housekeeping

    def _say(self, urgent: bytes) -> None:
        self._urgent.append(urgent)

    def _forget_if_done(self, state: StreamState) -> None:
        if state.done:
            self._forget(state)

    def _forget(self, state: StreamState) -> None:
        if self._streams.pop(state.id, None) is not None:
            if state.id % 2 == self._inbound_parity:
                self._inbound -= 1
            self._traffic.ended(state)
            state.release()
