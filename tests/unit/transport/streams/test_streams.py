from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.frames import Kind, frame
from aitorrent_transport.streams.loopback import local_streams
from aitorrent_transport.streams.receiving import ReceivingHalf
from aitorrent_transport.streams.sending import SEND_QUEUE_BYTES
from aitorrent_transport.streams.stream import ChannelStream
from aitorrent_transport.streams.windows import INITIAL_WINDOW, MAX_WINDOW, WindowBudget
from aitorrentd.api import (
    Busy,
    Conflict,
    PeerGone,
    PeerId,
    Priority,
    ProtocolError,
    Stream,
    TimedOut,
    TooLarge,
    Unavailable,
)
from tests.support.clocks import LoopClock
from tests.support.effort import examples
from tests.support.nodes import wait_for
from tests.support.transport.transport_links import FakeLink, link_pair

pytestmark = pytest.mark.jump_clock

A, B = PeerId("12D3KooWaaaaaaaa"), PeerId("12D3KooWbbbbbbbb")


class Ends:
    """Two channels over a pair of links in memory."""

    def __init__(self, keepalive_s: float = 15.0) -> None:
        self.links = link_pair(A, B)
        self.near = self._channel(self.links[0], keepalive_s)
        self.far = self._channel(self.links[1], 15.0)
        self.inbound: asyncio.Queue[ChannelStream] = asyncio.Queue()
        self.closed: list[tuple[str, str, ProtocolError | None]] = []
        self.far.on_stream = lambda channel, state: self.inbound.put_nowait(
            ChannelStream(state, channel, channel.peer)
        )
        for name, channel in (("near", self.near), ("far", self.far)):
            channel.on_closed = lambda _, reason, fault, name=name: self.closed.append(  # type: ignore[misc]
                (name, reason, fault)
            )

    def _channel(self, link: FakeLink, keepalive_s: float) -> Channel:
        return Channel(
            link,
            clock=LoopClock(),
            budget=WindowBudget(),
            keepalive_s=keepalive_s,
            greeting={"v": 1},
        )

    async def __aenter__(self) -> Ends:
        self.near.start()
        self.far.start()
        assert await self.near.greeted(1) == {"v": 1}
        return self

    async def __aexit__(self, *_: object) -> None:
        self.near.close("the test is over")
        self.far.close("the test is over")
        await asyncio.sleep(0)

    async def streams(self, priority: Priority = Priority.BULK) -> tuple[Stream, Stream]:
        near = self.near.open("/test/1", priority)
        return near, await asyncio.wait_for(self.inbound.get(), 1)


Pair = Callable[[], Awaitable[tuple[Stream, Stream]]]


@pytest.fixture(params=["channel", "local"])
async def pair(request: pytest.FixtureRequest) -> object:
    if request.param == "local":

        async def local() -> tuple[Stream, Stream]:
            return local_streams(A, "/test/1", Priority.BULK, LoopClock().monotonic)

        yield local
    else:
        async with Ends() as ends:
            yield ends.streams


@pytest.mark.parametrize(("priority", "at_once"), [(Priority.TENSOR, True), (Priority.BULK, False)])
async def test_tensors_do_not_wait_for_the_other_work_of_the_loop(
    priority: Priority, at_once: bool
) -> None:
    async with Ends() as ends:
        stream = ends.near.open("/test/1", priority)
        await ends.inbound.get()
        before = ends.links[0].records_out
        await stream.write(b"a hidden state")
        assert (ends.links[0].records_out > before) is at_once


async def test_bytes_cross_and_end_in_order(pair: Pair) -> None:
    near, far = await pair()
    await near.write(b"one\ntwo")
    await near.write(memoryview(b"\nthree"))
    await near.close_write()
    assert await far.read_line() == b"one\n"
    assert await far.read_exactly(4) == b"two\n"
    assert await far.read_line() == b"three"
    assert await far.read_line() == b""
    assert await far.read() == b""
    await far.write(b"answer")
    await far.close()
    assert await near.read() == b"answer"
    assert await near.read() == b""


async def test_large_write_arrives_whole_through_small_windows(pair: Pair) -> None:
    near, far = await pair()
    sent = os.urandom(5_000_001)
    writing = asyncio.create_task(near.write(sent))
    assert await asyncio.wait_for(far.read_exactly(len(sent)), 10) == sent
    await writing


async def test_writer_waits_for_a_slow_reader_and_memory_stays_bounded(pair: Pair) -> None:
    near, far = await pair()
    writing = asyncio.create_task(near.write(bytes(10_000_000)))
    _, pending = await asyncio.wait({writing}, timeout=0.1)
    assert pending
    assert isinstance(near, ChannelStream)
    assert isinstance(far, ChannelStream)
    assert near._state.sending.queued <= SEND_QUEUE_BYTES
    assert far._state.receiving.buffered <= INITIAL_WINDOW
    total = 0
    while total < 10_000_000:
        total += len(await asyncio.wait_for(far.read(), 5))
    await writing


async def test_buffer_of_the_writer_may_change_after_the_write(pair: Pair) -> None:
    near, far = await pair()
    buffer = bytearray(b"before")
    await near.write(memoryview(buffer))
    buffer[:] = b"after!"
    assert await far.read_exactly(6) == b"before"


async def test_reset_reaches_reader_and_writer_of_the_peer(pair: Pair) -> None:
    near, far = await pair()
    reading = asyncio.create_task(far.read())
    writing = asyncio.create_task(far.write(bytes(2_000_000)))
    await asyncio.sleep(0.02)
    near.reset("no longer needed")
    with pytest.raises(PeerGone, match="no longer needed"):
        await asyncio.wait_for(reading, 1)
    with pytest.raises(PeerGone, match="no longer needed"):
        await asyncio.wait_for(writing, 1)
    with pytest.raises(PeerGone, match="no longer needed"):
        await near.read()


async def test_close_fails_the_peers_writes_and_still_delivers(pair: Pair) -> None:
    near, far = await pair()
    await near.write(b"last words")
    await near.close()
    assert await far.read_exactly(10) == b"last words"
    assert await far.read() == b""
    with pytest.raises(PeerGone, match="has stopped reading"):
        await far.write(b"too late")
    with pytest.raises(PeerGone, match="closed here"):
        await near.read()


async def test_write_after_own_end_is_refused(pair: Pair) -> None:
    near, _ = await pair()
    await near.close_write()
    with pytest.raises(Conflict, match="closed for writing"):
        await near.write(b"more")


async def test_early_end_says_how_much_came(pair: Pair) -> None:
    near, far = await pair()
    await near.write(b"abc")
    await near.close_write()
    with pytest.raises(PeerGone, match="ended after 3 of 10 bytes"):
        await far.read_exactly(10)


async def test_line_beyond_its_limit_is_too_large_even_without_newline(pair: Pair) -> None:
    near, far = await pair()
    await near.write(b"x" * 1001)
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        await asyncio.wait_for(far.read_line(1000), 1)


async def test_line_longer_than_the_window_is_read(pair: Pair) -> None:
    near, far = await pair()
    line = b"y" * (3 * INITIAL_WINDOW) + b"\n"
    writing = asyncio.create_task(near.write(line))
    assert await asyncio.wait_for(far.read_line(1 << 20), 5) == line
    await writing


async def test_cancelled_read_loses_nothing(pair: Pair) -> None:
    near, far = await pair()
    reading = asyncio.create_task(far.read_exactly(10))
    await near.write(b"01234")
    await asyncio.sleep(0.02)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await near.write(b"56789")
    assert await far.read_exactly(10) == b"0123456789"


async def test_concurrent_writes_do_not_interleave(pair: Pair) -> None:
    near, far = await pair()
    pieces = [bytes([i]) * 400_000 for i in range(4)]
    writes = [asyncio.create_task(near.write(piece)) for piece in pieces]
    got = await asyncio.wait_for(far.read_exactly(1_600_000), 5)
    await asyncio.gather(*writes)
    assert got == b"".join(pieces)


async def test_second_reader_is_an_error_of_the_caller(pair: Pair) -> None:
    _, far = await pair()
    first = asyncio.create_task(far.read())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="two readers"):
        await far.read()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_stream_that_nobody_reads_does_not_stall_another() -> None:
    async with Ends() as ends:
        stalled, _ = await ends.streams()
        filling = asyncio.create_task(stalled.write(bytes(4_000_000)))
        near, far = await ends.streams()
        for _ in range(20):
            await asyncio.wait_for(near.write(bytes(100_000)), 1)
            await asyncio.wait_for(far.read_exactly(100_000), 1)
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def test_small_writes_of_one_pass_share_a_record() -> None:
    async with Ends() as ends:
        near, far = await ends.streams()
        await wait_for(lambda: ends.near.rtt_known and ends.far.rtt_known)
        before = ends.links[0].records_out
        await near.write(b"head")
        await near.write(b"tail" * 2000)
        assert await far.read_exactly(8004)
        assert ends.links[0].records_out == before + 1


async def test_request_beside_a_bulk_transfer_leaves_before_most_of_what_is_queued() -> None:
    async with Ends() as ends:
        ends.links[0].high_water = 100_000
        bulk, _ = await ends.streams()
        request, served = await ends.streams(Priority.TENSOR)
        arrived: list[bytes] = []
        deliver = ends.links[1].on_record

        def watch(record: memoryview) -> None:
            arrived.append(bytes(record))
            deliver(record)

        ends.links[1].on_record = watch
        await bulk.write(b"b" * (INITIAL_WINDOW - 1000))
        await request.write(b"question")
        assert await asyncio.wait_for(served.read_exactly(8), 1) == b"question"
        at = next(i for i, record in enumerate(arrived) if b"question" in record)
        before = sum(map(len, arrived[:at])) + arrived[at].index(b"question")
        assert before < 130_000, "no more than what the link had taken"


async def test_long_transfer_gives_way_to_others_in_every_pass_of_the_loop() -> None:
    async with Ends() as ends:
        ends.links[0].high_water = 1 << 30
        await ends.streams()
        state = next(iter(ends.near.mux.states()))
        state.sending.credit = MAX_WINDOW
        far_state = next(iter(ends.far.mux.states()))
        far_state.receiving.allowance = MAX_WINDOW
        before = ends.links[0].bytes_out
        state.sending.push(bytes(MAX_WINDOW))
        ends.near.pump(state)
        assert ends.links[0].bytes_out - before < 350_000
        await wait_for(lambda: far_state.receiving.buffered == MAX_WINDOW)
        assert state.sending.queued == 0


async def test_round_trip_time_is_known_before_the_first_keepalive() -> None:
    """Windows grow by it, and the first ping of a new process is slow."""
    async with Ends(keepalive_s=1000.0) as ends:
        await wait_for(lambda: ends.near.rtt_known and ends.far.rtt_known)
        assert 0 <= ends.near.mux.rtt_s < 0.05


async def test_hung_peer_costs_bounded_memory_and_is_noticed() -> None:
    async with Ends(keepalive_s=0.2) as ends:
        near, _ = await ends.streams()
        ends.links[1].hold = True
        with pytest.raises(PeerGone, match="silent for"):
            await asyncio.wait_for(near.write(bytes(100_000_000)), 5)
        assert ends.links[0].bytes_out < 2_000_000
        assert ends.closed[0][0] == "near"


async def test_closed_stream_whose_rest_is_not_read_is_given_up() -> None:
    async with Ends() as ends:
        near, far = await ends.streams()
        filling = asyncio.create_task(near.write(bytes(SEND_QUEUE_BYTES + INITIAL_WINDOW)))
        await filling
        await near.close()
        assert len(ends.near.mux) == 1
        await asyncio.sleep(55)
        assert len(ends.near.mux) == 1
        await asyncio.sleep(10)
        assert len(ends.near.mux) == 0
        with pytest.raises(PeerGone, match="with unread data"):
            await far.read()


async def test_quiet_channel_stays_up_by_its_pings() -> None:
    async with Ends() as ends:
        await asyncio.sleep(3600)
        assert ends.near.closed is None
        assert ends.near.srtt_s is not None
        assert ends.near.srtt_s < 0.1


async def test_ping_without_answer_times_out() -> None:
    async with Ends() as ends:
        assert await ends.near.ping(1.0) < 1.0
        ends.links[1].hold = True
        with pytest.raises(TimedOut, match="did not answer a ping"):
            await ends.near.ping(0.05)


async def test_pings_under_way_are_bounded() -> None:
    async with Ends() as ends:
        ends.links[1].hold = True
        pings = [asyncio.create_task(ends.near.ping(5)) for _ in range(80)]
        await asyncio.sleep(0.02)
        for task in pings:
            task.cancel()
        results = await asyncio.gather(*pings, return_exceptions=True)
        assert sum(isinstance(r, Busy) for r in results) >= 16


async def test_lost_link_ends_streams_pings_and_is_told_once() -> None:
    ends = Ends()
    async with ends:
        near, far = await ends.streams()
        reading = asyncio.create_task(near.read())
        await asyncio.sleep(0)
        ends.links[1].abort()
        with pytest.raises(PeerGone, match="the connection was lost"):
            await asyncio.wait_for(reading, 1)
        with pytest.raises(PeerGone, match="the connection was lost"):
            ends.near.open("/test/1", Priority.BULK)
        with pytest.raises(PeerGone, match="aborted"):
            await far.read()
    assert sorted(name for name, _, _ in ends.closed) == ["far", "near"]


async def test_reason_of_a_close_reaches_the_peer() -> None:
    async with Ends() as ends:
        ends.near.close("going to bed")
        await asyncio.sleep(0.02)
        assert ("far", "closed by the peer: going to bed", None) in ends.closed


async def test_broken_rule_closes_the_channel_with_its_fault() -> None:
    async with Ends() as ends:
        ends.links[0].send(frame(Kind.DATA, 999, b"x"))
        await asyncio.sleep(0.02)
        name, reason, fault = ends.closed[0]
        assert (name, reason) == ("far", "closed here: protocol error: " + str(fault))
        assert isinstance(fault, ProtocolError)


async def test_peer_that_does_not_greet_is_given_up() -> None:
    ends = Ends()
    ends.near.start()
    with pytest.raises(TimedOut, match="did not greet"):
        await ends.near.greeted(0.05)
    assert ends.near.closed


async def test_refusal_instead_of_a_greeting_is_told() -> None:
    ends = Ends()
    ends.near.start()
    ends.links[1].close("no room")
    with pytest.raises(Unavailable, match="no room"):
        await ends.near.greeted(1)


async def test_retired_channel_closes_when_its_last_stream_ended() -> None:
    async with Ends() as ends:
        near, far = await ends.streams()
        ends.near.retire()
        ends.far.retire()
        await near.write(b"still works")
        assert await far.read_exactly(11) == b"still works"
        assert ends.near.closed is None
        await near.close()
        await far.close()
        await asyncio.sleep(0.05)
        assert ends.near.closed
        assert ends.far.closed


@settings(max_examples=examples(150))
@given(st.lists(st.one_of(st.binary(min_size=1, max_size=50), st.integers(0, 60)), max_size=30))
def test_buffer_gives_back_what_it_was_fed(steps: list[bytes | int]) -> None:
    half = ReceivingHalf(1, WindowBudget(), 0.0)
    fed = taken = b""
    for step in steps:
        if isinstance(step, bytes):
            half.feed(step)
            fed += step
        else:
            taken += half.take(step)
        assert half.buffered == len(fed) - len(taken)
    assert taken + half.take(1 << 20) == fed
