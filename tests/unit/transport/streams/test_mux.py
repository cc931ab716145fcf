from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.streams.frames import HEADER, MAX_DATA_BYTES, Kind, frame, window_frame
from aitorrent_transport.streams.mux import MAX_STREAMS, Mux
from aitorrent_transport.streams.receiving import ReceivingHalf
from aitorrent_transport.streams.sending import SEND_QUEUE_BYTES
from aitorrent_transport.streams.stream_state import StreamState
from aitorrent_transport.streams.windows import INITIAL_WINDOW, MAX_WINDOW, WindowBudget
from aitorrentd.api import Busy, Priority, ProtocolError
from tests.support.effort import examples


class Side:
    """A multiplexer with what it told its owner."""

    def __init__(self, dialer: bool, budget: int = 1 << 30) -> None:
        self.budget = WindowBudget(budget)
        self.mux = Mux(dialer=dialer, budget=self.budget)
        self.opened: list[StreamState] = []
        self.pongs: list[bytes] = []
        self.mux.on_open = self.opened.append
        self.mux.on_pong = self.pongs.append
        self.mux.hello({"v": 1})


def carry(source: Side, target: Side, now: float = 0.0, records: int = 10_000) -> int:
    """Deliver up to `records` records; returns their bytes."""
    total = 0
    while records and (parts := source.mux.next_record()) is not None:
        record = b"".join(parts)
        assert 0 < len(record) <= 65_536
        target.mux.receive(memoryview(record), now)
        total += len(record)
        records -= 1
    return total


def pair(**options: int) -> tuple[Side, Side]:
    a, b = Side(True, **options), Side(False, **options)
    carry(a, b)
    carry(b, a)
    return a, b


def opened(a: Side, b: Side, priority: Priority = Priority.BULK) -> tuple[StreamState, StreamState]:
    near = a.mux.open("/test/1", priority, 0.0)
    carry(a, b)
    return near, b.opened[-1]


def push(side: Side, state: StreamState, piece: bytes) -> None:
    state.sending.push(piece)
    side.mux.touch(state, 0.0)


@settings(max_examples=examples(120))
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 200_000)), min_size=1, max_size=40),
)
def test_bytes_of_every_stream_arrive_in_order_whatever_the_interleaving(
    seed: int, writes: list[tuple[int, int]]
) -> None:
    rng = random.Random(seed)
    a, b = pair()
    states = [a.mux.open(f"/s/{i}", Priority(i % 3), 0.0) for i in range(5)]
    sent = [b""] * 5
    got = [b""] * 5
    for i, size in writes:
        piece = rng.randbytes(size)
        sent[i] += piece
        push(a, states[i], piece)
        carry(a, b, records=rng.randrange(3))
        for j, far in enumerate(b.opened):
            got[j] += far.receiving.take(rng.randrange(100_000))
            b.mux.touch(far, rng.random())
        carry(b, a)
    for _ in range(400):
        carry(a, b)
        for j, far in enumerate(b.opened):
            assert far.receiving.buffered <= far.receiving.window
            got[j] += far.receiving.take(70_000)
            b.mux.touch(far, 1.0)
        carry(b, a)
    assert got == sent


def test_sender_stops_at_the_window_and_goes_on_after_credit() -> None:
    a, b = pair()
    near, far = opened(a, b)
    push(a, near, bytes(INITIAL_WINDOW + 5))
    carry(a, b)
    assert far.receiving.buffered == INITIAL_WINDOW
    assert near.sending.queued == 5
    far.receiving.take(INITIAL_WINDOW // 2 - 1)
    assert not b.mux.touch(far, 9.0)
    far.receiving.take(1)
    assert b.mux.touch(far, 9.0)
    carry(b, a)
    carry(a, b)
    assert near.sending.queued == 0


def test_bytes_beyond_the_window_are_a_protocol_error() -> None:
    a, b = pair()
    near, _ = opened(a, b)
    near.sending.credit = MAX_WINDOW
    push(a, near, bytes(INITIAL_WINDOW + 1))
    with pytest.raises(ProtocolError, match="whose window allows"):
        carry(a, b)


def test_window_grows_while_the_reader_keeps_up_and_budget_lasts() -> None:
    a, b = pair(budget=INITIAL_WINDOW + 100)
    near, far = opened(a, b)
    for _ in range(40):
        push(a, near, bytes(INITIAL_WINDOW))
        carry(a, b)
        far.receiving.take(1 << 30)
        b.mux.touch(far, 0.0)
        carry(b, a)
    assert far.receiving.window == 2 * INITIAL_WINDOW
    assert b.budget.left == 100
    b.mux.reset(far, "done")
    assert b.budget.left == INITIAL_WINDOW + 100


def test_window_never_passes_its_maximum_and_stays_small_for_a_slow_reader() -> None:
    a, b = pair()
    near, far = opened(a, b)
    for i in range(400):
        push(a, near, bytes(SEND_QUEUE_BYTES))
        carry(a, b)
        far.receiving.take(1 << 30)
        b.mux.touch(far, (i + 1) * 10.0)
        carry(b, a)
    assert far.receiving.window == INITIAL_WINDOW
    for _ in range(400):
        push(a, near, bytes(SEND_QUEUE_BYTES))
        carry(a, b)
        far.receiving.take(1 << 30)
        b.mux.touch(far, 4000.0)
        carry(b, a)
    assert far.receiving.window == MAX_WINDOW


def test_read_longer_than_the_window_is_credited_while_it_waits() -> None:
    a, b = pair(budget=0)
    near, far = opened(a, b)
    wanted = 3 * INITIAL_WINDOW
    ready: list[bool] = []
    far.receiving.on_readable = lambda: ready.append(True)
    far.receiving.want(wanted, wanted)
    push(a, near, bytes(wanted + 10))
    for _ in range(20):
        carry(a, b)
        carry(b, a)
    assert ready == [True]
    assert len(far.receiving.take(wanted)) == wanted


@pytest.mark.parametrize("lower", [Priority.TENSOR, Priority.BULK])
def test_control_goes_first_and_lower_classes_keep_a_floor(lower: Priority) -> None:
    a, b = pair()
    control, far_control = opened(a, b, Priority.CONTROL)
    bulk, far_bulk = opened(a, b, lower)
    for state in (control, bulk):
        state.sending.credit = MAX_WINDOW
    for far in (far_control, far_bulk):
        far.receiving.allowance = MAX_WINDOW
    push(a, bulk, bytes(4_000_000))
    push(a, control, bytes(4_000_000))
    while far_control.receiving.buffered + far_bulk.receiving.buffered < 2_000_000:
        carry(a, b, records=1)
    share = far_bulk.receiving.buffered / (
        far_control.receiving.buffered + far_bulk.receiving.buffered
    )
    assert 0.04 <= share <= 0.07


def test_three_busy_classes_share_as_ranked() -> None:
    a, b = pair()
    ends = [opened(a, b, priority) for priority in Priority]
    for near, far in ends:
        near.sending.credit = far.receiving.allowance = MAX_WINDOW
        push(a, near, bytes(6_000_000))
    fars = [far for _, far in ends]
    while sum(f.receiving.buffered for f in fars) < 4_000_000:
        carry(a, b, records=1)
    shares = [f.receiving.buffered / 4_000_000 for f in fars]
    assert shares[0] > 0.85
    assert min(shares[1:]) > 0.04


def test_streams_of_one_class_take_turns() -> None:
    a, b = pair()
    nears = [a.mux.open(f"/s/{i}", Priority.BULK, 0.0) for i in range(4)]
    for near in nears:
        push(a, near, bytes(200_000))
    carry(a, b, records=9)
    sizes = [far.receiving.buffered for far in b.opened]
    assert max(sizes) - min(sizes) <= MAX_DATA_BYTES


def test_small_frame_of_a_higher_class_leaves_in_the_next_record() -> None:
    a, b = pair()
    bulk, far_bulk = opened(a, b, Priority.BULK)
    control, far_control = opened(a, b, Priority.CONTROL)
    push(a, bulk, bytes(200_000))
    carry(a, b, records=1)
    push(a, control, b"now")
    carry(a, b, records=1)
    assert far_control.receiving.buffered == 3
    assert far_bulk.receiving.buffered < 200_000


def test_slow_stream_does_not_stall_another() -> None:
    a, b = pair()
    slow, far_slow = opened(a, b)
    fast, far_fast = opened(a, b)
    push(a, slow, bytes(2 * INITIAL_WINDOW))
    total = 0
    for _ in range(40):
        push(a, fast, bytes(100_000))
        carry(a, b)
        total += len(far_fast.receiving.take(1 << 30))
        b.mux.touch(far_fast, 0.0)
        carry(b, a)
    assert total == 4_000_000
    assert far_slow.receiving.buffered == INITIAL_WINDOW


def test_half_close_lets_the_other_direction_go_on() -> None:
    a, b = pair()
    near, far = opened(a, b)
    push(a, near, b"question")
    near.sending.end_queued = True
    a.mux.touch(near, 0.0)
    carry(a, b)
    assert far.receiving.ended
    assert far.receiving.take(100) == b"question"
    push(b, far, b"answer")
    far.sending.end_queued = True
    b.mux.touch(far, 0.0)
    carry(b, a)
    assert near.receiving.take(100) == b"answer"
    assert near.receiving.ended
    assert (len(a.mux), len(b.mux)) == (0, 0)


def test_reset_drops_what_is_buffered_at_both_ends() -> None:
    a, b = pair()
    near, far = opened(a, b)
    push(a, near, b"x" * 1000)
    carry(a, b)
    a.mux.reset(near, "changed my mind")
    carry(a, b)
    assert far.failure == "reset by the peer: changed my mind"
    assert far.receiving.buffered == 0
    assert (len(a.mux), len(b.mux)) == (0, 0)


def test_stop_fails_the_writer_but_not_the_reader() -> None:
    a, b = pair()
    near, far = opened(a, b)
    push(a, near, b"abc")
    carry(a, b)
    push(a, near, b"never arrives")
    a.mux.stop(near, "closed")
    near.sending.end_queued = True
    a.mux.touch(near, 0.0)
    carry(a, b)
    assert far.sending.stopped == "the peer has stopped reading: closed"
    assert far.failure is None
    assert far.receiving.take(3) == b"abc"
    assert far.receiving.take(99) == b"never arrives"


def test_frames_under_way_for_a_forgotten_stream_are_ignored() -> None:
    a, b = pair()
    near, far = opened(a, b)
    push(a, near, b"late")
    b.mux.reset(far, "no")
    carry(a, b)
    carry(b, a)
    b.mux.receive(memoryview(window_frame(near.id, 10)), 0.0)
    assert near.failure == "reset by the peer: no"


def test_too_many_streams_are_busy_here_and_reset_there() -> None:
    a, b = pair()
    for _ in range(MAX_STREAMS):
        a.mux.open("/s", Priority.BULK, 0.0)
    with pytest.raises(Busy, match="256 streams"):
        a.mux.open("/s", Priority.BULK, 0.0)
    carry(a, b)
    greedy = frame(Kind.OPEN, 2 * MAX_STREAMS + 1, b"/s")
    b.mux.receive(memoryview(greedy), 0.0)
    assert len(b.opened) == MAX_STREAMS
    parts = b.mux.next_record()
    assert parts is not None
    assert b"too many streams" in b"".join(parts)


def test_flood_of_pings_is_answered_within_bounds() -> None:
    _, b = pair()
    b.mux.receive(memoryview(frame(Kind.PING, 0, b"12345678") * 4000), 0.0)
    parts = b.mux.next_record()
    assert parts is not None
    assert len(parts) == 16


def test_peer_that_opens_beyond_limits_without_reading_is_cut_off() -> None:
    _, b = pair()
    with pytest.raises(ProtocolError, match="more answers than it reads"):
        for start in range(0, 20_000, 1000):
            record = b"".join(
                frame(Kind.OPEN, 2 * i + 1, b"/s") for i in range(start, start + 1000)
            )
            b.mux.receive(memoryview(record), 0.0)
    assert len(b.mux) == MAX_STREAMS


BAD_FRAMES = {
    "empty record": b"",
    "stray bytes": b"\x07\x00",
    "frame of 9 bytes": HEADER.pack(Kind.PING, 0, 9) + b"123",
    "ping nonce": frame(Kind.PING, 0, b"123"),
    "second greeting": frame(Kind.HELLO, 0, b"\x80"),
    "unknown kind": frame(Kind.PING, 0, b"12345678").replace(b"\x07", b"\xf0", 1),
    "with stream id 5": frame(Kind.PONG, 5, b"12345678"),
    "not the opener's next": frame(Kind.OPEN, 2, b"/s"),
    "stream id 0 is not": frame(Kind.OPEN, 0, b"/s"),
    "empty or not visible": frame(Kind.OPEN, 9, b"a b"),
    "protocol id of 129": frame(Kind.OPEN, 9, b"a" * 129),
    "never opened": frame(Kind.DATA, 99, b"x"),
    "for stream 98": frame(Kind.RESET, 98),
    "data frame of 0 bytes": frame(Kind.DATA, 1),
    "data frame of 61441": frame(Kind.DATA, 1, bytes(61_441)),
    "zero bytes": HEADER.pack(Kind.WINDOW, 1, 4) + bytes(4),
    "window frame with 3": frame(Kind.WINDOW, 1, b"123"),
    "the limit is 16777216": window_frame(1, 1 << 31),
    "second end": frame(Kind.END, 1) * 2,
    "after its end": frame(Kind.END, 1) + frame(Kind.DATA, 1, b"x"),
    "reason of 257": frame(Kind.STOP, 1, bytes(257)),
}


@pytest.mark.parametrize("message", BAD_FRAMES)
def test_broken_rule_is_named(message: str) -> None:
    a, b = pair()
    opened(a, b)
    with pytest.raises(ProtocolError, match=message):
        b.mux.receive(memoryview(BAD_FRAMES[message]), 0.0)


def test_nothing_may_come_before_the_greeting() -> None:
    with pytest.raises(ProtocolError, match="before the greeting"):
        Side(True).mux.receive(memoryview(frame(Kind.PING, 0, b"12345678")), 0.0)


framed = st.builds(
    lambda kind, stream, payload: HEADER.pack(kind, stream, len(payload)) + payload,
    st.integers(0, 12),
    st.sampled_from([0, 1, 2, 3, 5, 7, 4096, 2**32 - 1]),
    st.one_of(st.binary(max_size=40), st.just(b"/p/1"), st.just(b"\x00\x00\x01\x00")),
)


@settings(max_examples=examples(200))
@given(st.lists(st.one_of(st.binary(max_size=80), framed), max_size=30))
def test_random_records_are_taken_or_are_protocol_errors(records: list[bytes]) -> None:
    _, b = pair()
    try:
        for record in records:
            b.mux.receive(memoryview(record), 0.0)
    except ProtocolError:
        pass
    assert len(b.mux) <= MAX_STREAMS
    assert sum(state.receiving.buffered for state in b.mux.states()) <= len(b.mux) * INITIAL_WINDOW


@settings(max_examples=examples(150))
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=12), st.integers(1, 200))
def test_line_length_agrees_with_find(chunks: list[bytes], limit: int) -> None:
    half = ReceivingHalf(1, WindowBudget(), 0.0)
    whole = b""
    for chunk in chunks:
        whole += chunk
        half.feed(chunk)
        if len(whole) % 3 == 0:
            half.take(1)
            whole = whole[1:]
        length = whole[:limit].find(b"\n") + 1
        assert half.line_length(limit) == length
    assert half.take(10_000) == whole
