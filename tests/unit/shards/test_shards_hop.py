"""What a sender writes to a newcomer, and to one that has a part already."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from aitorrent_shards.hop import HopFrame, HopSender, Journal
from aitorrent_shards.protocol import Link
from aitorrent_shards.ring import Ring
from aitorrent_shards.sink import AnswerSink
from aitorrent_shards.tasks import OwnedTasks
from aitorrent_transport.local import local_streams
from aitorrentd.api import (
    Priority,
    ProtocolError,
    TooLarge,
    Transport,
    encode_frame,
    read_frame,
)
from tests.support.inference_fakes import node_id
from tests.support.nodes import wait_for
from tests.support.streams import MemoryStream, stream_pair

TARGET = Link(node_id(1), (), b"s" * 16)


class OneStream:
    """A transport whose streams all lead to the test."""

    def __init__(self) -> None:
        self.far: MemoryStream | None = None

    async def open_stream(self, peer: Any, protocol: str, **_: Any) -> MemoryStream:
        near, self.far = stream_pair(protocol, client=node_id(0), server=peer)
        return near


@asynccontextmanager
async def linked(
    have: int, *, max_bytes: int = 1000
) -> AsyncIterator[tuple[HopSender, MemoryStream, list[str]]]:
    """A sender, the stream's end at a receiver that has `have` positions, and what broke."""
    transport, tasks = OneStream(), OwnedTasks(logging.getLogger("test.hop"))
    broken: list[str] = []
    kept = journal(max_bytes)
    sender = HopSender(cast("Transport", transport), kept, tasks, broken.append)
    linking = asyncio.create_task(sender.link(TARGET, timeout_s=5))
    far = await wait_for(lambda: transport.far)
    assert far is not None
    assert (await read_frame(far)).header["op"] == "hop"
    await far.write(encode_frame({"have": have}))
    assert await linking == have
    yield sender, far, broken
    await tasks.close()


@pytest.mark.parametrize(("have", "expected"), [(0, [0, 4, 8, 9]), (8, [8, 9]), (10, [])])
async def test_receiver_is_sent_what_it_does_not_have_and_nothing_else(
    have: int, expected: list[int]
) -> None:
    async with linked(have) as (sender, far, _):
        await sender.flush()
        await sender.send(HopFrame(10, 1, {"p": 10}, b"last"))
        found: list[int] = []
        while 10 not in found:
            found.append((await read_frame(far)).header["p"])
        assert found == [*expected, 10]


async def test_link_that_ends_while_nothing_is_written_is_noticed_once() -> None:
    async with linked(0) as (sender, far, broken):
        far.reset("the connection broke")
        await wait_for(lambda: broken)
        await sender.send(HopFrame(10, 1, {"p": 10}, b"last"))
        await sender.flush()
        assert broken == ["the stream was reset: the connection broke"]
    async with linked(0) as (_, far, broken):
        await far.close()
        await wait_for(lambda: broken)
        assert broken == ["the receiver ended it"]


async def test_receiver_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitorrent_shards.hop.STUCK_WRITE_S", 0.2)
    monkeypatch.setattr("aitorrent_shards.hop.STUCK_CHECK_S", 0.05)
    async with linked(0, max_bytes=200_000) as (sender, _, broken):
        writing = asyncio.create_task(sender.send(HopFrame(10, 1, {"p": 10}, bytes(100_000))))
        await wait_for(lambda: broken)
        assert broken == ["a write timed out"]
        await writing
        assert sender.have < 11


async def test_link_on_which_nothing_is_written_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aitorrent_shards.hop.STUCK_CHECK_S", 0.001)
    async with linked(10) as (sender, far, broken):
        for pos in (10, 11):
            await asyncio.sleep(0.05)  # many looks at it
            await sender.send(HopFrame(pos, 1, {"p": pos}, b"x"))
            assert (await read_frame(far)).header["p"] == pos
        assert broken == []


async def test_link_that_the_sender_leaves_did_not_break() -> None:
    async with linked(0) as (sender, _, broken):
        sender.unlink("another takes over")
        await asyncio.sleep(0.01)
        assert broken == []


async def test_first_stage_on_this_node_starts_before_send_returns() -> None:
    """What else is done with the last token comes after: everybody waits for the layers."""
    near, far = local_streams(node_id(0), "/test/1", Priority.TENSOR, time.monotonic)
    started: list[int] = []

    async def first_stage() -> None:
        started.append((await read_frame(far)).header["p"])

    class Head:
        async def send(self, frame: HopFrame) -> None:
            await near.write(encode_frame(frame.header, frame.tail))

    ring = object.__new__(Ring)
    ring.sink = AnswerSink(node_id(0), 8, lambda: None, lambda reason: None)
    ring._head = cast("HopSender", Head())
    stage = asyncio.create_task(first_stage())
    await asyncio.sleep(0)
    await ring.send(HopFrame(0, 1, {"p": 7}, b""))
    assert started == [7]
    await stage


def test_receiver_that_claims_half_a_frame_is_refused() -> None:
    kept = journal()
    with pytest.raises(ProtocolError, match="position 6 is inside frame 4-8"):
        kept.check(6)


def test_journal_keeps_to_its_bytes() -> None:
    kept = Journal(max_bytes=7)
    kept.append(HopFrame(0, 1, {}, b"1234"))
    with pytest.raises(TooLarge, match="more than its 7 bytes"):
        kept.append(HopFrame(1, 1, {}, b"1234"))


def journal(max_bytes: int = 1000) -> Journal:
    kept = Journal(max_bytes=max_bytes)
    for pos, n in ((0, 4), (4, 4), (8, 1), (9, 1)):
        kept.append(HopFrame(pos, n, {"p": pos}, b"x" * n))
    return kept
