"""What a sender writes to a newcomer, and to one that has a part already."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aitorrent_shards.hops.receiver import MAX_AT_ONCE, HopReceiver
from aitorrent_shards.hops.sender import (
    STUCK_CHECK_S,
    STUCK_WRITE_S,
    HopMessage,
    HopSender,
    Journal,
)
from aitorrent_shards.protocol.messages import PROTOCOL, Link
from aitorrent_shards.ring.answer_receiver import AnswerSink
from aitorrent_shards.ring.ring import Ring
from aitorrent_transport.streams.loopback import local_streams
from aitorrentd.api import (
    AitorrentError,
    Frame,
    PeerGone,
    Priority,
    ProtocolError,
    Stream,
    TooLarge,
    Unavailable,
    WireProtocol,
    encode_frame,
    read_frame,
)
from aitorrentd.api.tasks import Tasks
from tests.support.inference_fakes import node_id
from tests.support.nodes import wait_for
from tests.support.transport.memory_network import MemoryNetwork
from tests.support.transport.streams import MemoryStream

pytestmark = pytest.mark.jump_clock

TARGET = Link(node_id(1), (), b"s" * 16)


HERE = node_id(0)


async def keep(stream: Stream) -> None:
    """Leaves a stream to the test."""
    await asyncio.Event().wait()


@asynccontextmanager
async def linked(
    have: int, *, max_bytes: int = 1000
) -> AsyncIterator[tuple[HopSender, MemoryStream, list[str]]]:
    """A sender, the stream's end at a receiver that has `have` positions, and what broke."""
    net, tasks = MemoryNetwork(), Tasks(logging.getLogger("test.hop"))
    net.join(TARGET.peer, WireProtocol(PROTOCOL, keep))
    broken: list[str] = []
    sender = HopSender(net.join(HERE), tasks, broken.append, max_bytes=max_bytes)
    fill(sender.journal)
    linking = asyncio.create_task(sender.link(TARGET, timeout_s=5))
    (near,) = await wait_for(lambda: net.streams)
    far = near.other
    assert (await read_frame(far)).header["op"] == "hop"
    await far.write(encode_frame({"have": have}))
    assert await linking == have
    yield sender, far, broken
    await tasks.close()
    await net.close()


@pytest.mark.parametrize(("have", "expected"), [(0, [0, 4, 8, 9]), (8, [8, 9]), (10, [])])
async def test_receiver_is_sent_what_it_does_not_have_and_nothing_else(
    have: int, expected: list[int]
) -> None:
    async with linked(have) as (sender, far, _):
        await sender.flush()
        sender.send(HopMessage(10, 1, {"p": 10}, b"last"))
        found: list[int] = []
        while 10 not in found:
            found.append((await read_frame(far)).header["p"])
        assert found == [*expected, 10]


async def test_link_that_ends_while_nothing_is_written_is_noticed_once() -> None:
    async with linked(0) as (sender, far, broken):
        far.reset("the connection broke")
        await wait_for(lambda: broken)
        sender.send(HopMessage(10, 1, {"p": 10}, b"last"))
        await sender.flush()
        assert broken == ["the stream was reset: the connection broke"]
    async with linked(0) as (_, far, broken):
        await far.close()
        await wait_for(lambda: broken)
        assert broken == ["the receiver closed it"]


async def test_receiver_that_takes_nothing_is_given_up() -> None:
    async with linked(0, max_bytes=200_000) as (sender, _, broken):
        sender.send(HopMessage(10, 1, {"p": 10}, bytes(100_000)))
        await asyncio.sleep(STUCK_WRITE_S - 1)
        assert broken == []
        await asyncio.sleep(STUCK_CHECK_S + 2)
        assert broken == ["a write timed out"]
        assert sender.have < 11


async def test_link_on_which_nothing_is_written_is_kept() -> None:
    async with linked(10) as (sender, far, broken):
        for pos in (10, 11):
            await asyncio.sleep(2 * STUCK_WRITE_S)  # many looks at it
            sender.send(HopMessage(pos, 1, {"p": pos}, b"x"))
            assert (await read_frame(far)).header["p"] == pos
        assert broken == []


async def test_link_that_the_sender_leaves_did_not_break() -> None:
    async with linked(0) as (sender, _, broken):
        sender.unlink("another takes over")
        await asyncio.sleep(0.01)
        assert broken == []


class Recorder(HopReceiver):
    """Takes frames; each needs time, until the test says that it is done."""

    def __init__(self) -> None:
        super().__init__(node_id(0), max_tail_bytes=1000)
        self.taken: list[int] = []
        self.broken: list[str] = []
        self.skipped = 0

    def receive(self, frame: Frame) -> bool:
        if frame.header["p"] < 0:
            raise ProtocolError("not a position")
        if frame.header["p"] < self.have:
            self.skipped += 1
            return True
        self.taken.append(frame.header["p"])
        return False

    def done(self, have: int) -> None:
        self.have = have
        self.received()

    def broke(self, error: AitorrentError) -> None:
        self.broken.append(error.message)


class Fed:
    """A receiver that is being fed over a stream inside the process."""

    def __init__(self, receiver: Recorder) -> None:
        self.near, far = local_streams(node_id(0), "/test/1", Priority.TENSOR, time.monotonic)
        self.running = asyncio.create_task(receiver.run(far))

    async def have(self) -> int:
        """What the receiver says it has when it is ready for frames."""
        have: int = (await read_frame(self.near)).header["have"]
        await asyncio.sleep(0)
        return have

    def send(self, *positions: int) -> None:
        """One piece of bytes for all these frames."""
        assert self.near.write_now(b"".join(encode_frame({"p": p}) for p in positions))


async def test_frame_is_taken_before_the_write_that_completes_it_returns() -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    assert await fed.have() == 0
    whole = encode_frame({"p": 1}, b"tail")
    fed.near.write_now(whole[:3])
    fed.near.write_now(whole[3:9])
    assert receiver.taken == []
    fed.near.write_now(whole[9:])
    assert receiver.taken == [1]
    receiver.detach("done")
    await fed.running


async def test_frames_are_taken_one_at_a_time() -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    await fed.have()
    fed.send(1, 2, 3)
    assert receiver.taken == [1]
    receiver.done(1)
    assert receiver.taken == [1, 2]
    fed.send(4)
    assert receiver.taken == [1, 2]
    receiver.done(2)
    receiver.done(3)
    assert receiver.taken == [1, 2, 3, 4]
    receiver.detach("done")
    await fed.running


async def test_others_have_a_turn_while_many_frames_are_skipped() -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    await fed.have()
    receiver.have = 5
    fed.send(*([1] * (3 * MAX_AT_ONCE)), 5)
    assert (receiver.skipped, receiver.taken) == (MAX_AT_ONCE, [])
    await wait_for(lambda: receiver.taken)
    assert (receiver.skipped, receiver.taken) == (3 * MAX_AT_ONCE, [5])
    receiver.detach("done")
    await fed.running


async def test_last_frame_before_the_others_turn_may_need_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    await fed.have()
    receiver.have = 5
    fed.send(*([1] * (MAX_AT_ONCE - 1)), 5)
    assert receiver.taken == [5]
    receiver.done(6)
    await asyncio.sleep(0)
    fed.send(6)
    assert receiver.taken == [5, 6]
    receiver.detach("done")
    await fed.running
    assert not caplog.records


async def test_bug_of_a_receiver_is_logged_and_ends_its_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Buggy(Recorder):
        def receive(self, frame: Frame) -> bool:
            return bool(1 // 0)

    receiver = Buggy()
    fed = Fed(receiver)
    await fed.have()
    fed.send(1)
    await fed.running
    assert receiver.broken == ["the stage failed; its log has the details"]
    assert "ZeroDivisionError" in caplog.text


async def test_newer_hop_waits_for_the_frame_that_is_being_computed() -> None:
    receiver = Recorder()
    older = Fed(receiver)
    await older.have()
    older.send(1)
    newer, newest = Fed(receiver), Fed(receiver)
    await older.running
    for _ in range(5):
        await asyncio.sleep(0)
    assert not newest.running.done()
    receiver.done(2)
    assert await newest.have() == 2
    newest.send(2)
    assert receiver.taken == [1, 2]
    await newer.running
    receiver.detach("done")
    await newest.running


async def test_frame_that_breaks_the_rules_ends_the_stream_and_is_told_once() -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    await fed.have()
    fed.send(-1, 1)
    await fed.running
    assert (receiver.taken, receiver.broken) == ([], ["not a position"])
    with pytest.raises(PeerGone, match="reset by the peer: protocol"):
        await fed.near.read(1)


async def test_frame_whose_work_fails_ends_the_stream_and_is_told_once() -> None:
    receiver = Recorder()
    fed = Fed(receiver)
    await fed.have()
    fed.send(1, 2)
    receiver.received(Unavailable("the worker is gone"))
    await fed.running
    assert (receiver.taken, receiver.broken) == ([1], ["the worker is gone"])


async def test_receiver_goes_on_over_a_newer_stream_when_the_older_one_is_lost() -> None:
    receiver = Recorder()
    older = Fed(receiver)
    await older.have()
    older.send(1)
    older.near.reset("cut")
    receiver.done(2)
    await older.running
    newer = Fed(receiver)
    assert await newer.have() == 2
    newer.send(2)
    assert (receiver.taken, receiver.broken) == ([1, 2], [])
    receiver.detach("done")
    await newer.running


async def test_first_stage_on_this_node_starts_before_send_returns() -> None:
    """What else is done with the last token comes after: everybody waits for the layers."""
    stage = Recorder()

    async def serve(stream: Stream) -> None:
        await read_frame(stream)
        await stage.run(stream)

    net, tasks = MemoryNetwork(), Tasks(logging.getLogger("test.hop"))
    here = net.join(HERE, WireProtocol(PROTOCOL, serve))
    head = HopSender(here, tasks, lambda reason: None, max_bytes=99)
    await head.link(Link(HERE, (), b"s" * 16), timeout_s=5)
    ring = object.__new__(Ring)
    ring.sink = AnswerSink(node_id(0), 8, lambda: None, lambda reason: None)
    ring._head = head
    await asyncio.sleep(0)
    ring.send(HopMessage(0, 1, {"p": 7}, b""))
    assert stage.taken == [7]
    stage.detach("done")
    await wait_for(lambda: not net.handlers)
    await tasks.close()


def test_receiver_that_claims_half_a_message_is_refused() -> None:
    kept = fill(Journal(max_bytes=1000))
    with pytest.raises(ProtocolError, match="position 6 is inside message 4-8"):
        kept.check(6)


def test_journal_keeps_to_its_bytes() -> None:
    kept = Journal(max_bytes=7)
    kept.append(HopMessage(0, 1, {}, b"1234"))
    with pytest.raises(TooLarge, match="more than its 7 bytes"):
        kept.append(HopMessage(1, 1, {}, b"1234"))


def fill(kept: Journal) -> Journal:
    for pos, n in ((0, 4), (4, 4), (8, 1), (9, 1)):
        kept.append(HopMessage(pos, n, {"p": pos}, b"x" * n))
    return kept
