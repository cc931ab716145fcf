"""A channel moves to another link without losing a stream or a byte."""

from __future__ import annotations

import asyncio
import hashlib
import random

import pytest

from aitorrent_transport.links.link import LinkLimits
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.windows import INITIAL_WINDOW
from aitorrentd.api import PeerGone, Priority, Stream, TimedOut
from tests.support.nodes import wait_for
from tests.support.transport.moving_channels import MovingChannels

MANY_KEYS = LinkLimits(rekey_s=0.01, min_peer_rekey_s=0.0)


async def _talk(pair: MovingChannels, opener: Channel, draw: random.Random, size: int) -> None:
    """Open a stream, write `size` random bytes in random pieces; expect their digest back."""
    stream = opener.open("/test/digest", draw.choice(list(Priority)))
    said = draw.randbytes(size)
    at = 0
    while at < size:
        piece = draw.choice((1, 100, 5_000, 60 * 1024, 300_000))
        await stream.write(said[at : at + piece])
        at += piece
        await asyncio.sleep(draw.choice((0, 0, 0, 0.001)))
    await stream.close_write()
    heard = await stream.read_exactly(32 + size)
    assert heard == hashlib.sha256(said).digest() + said
    assert await stream.read() == b""


async def _answer(channel: Channel, pair: MovingChannels) -> None:
    """Answer every stream with the digest of its bytes and the bytes."""

    async def one(stream: Stream) -> None:
        parts = []
        while part := await stream.read():
            parts.append(part)
        said = b"".join(parts)
        await stream.write(hashlib.sha256(said).digest())
        await stream.write(said)
        await stream.close()

    async with asyncio.TaskGroup() as tasks:
        while True:
            tasks.create_task(one(await pair.inbound[channel].get()))


@pytest.mark.parametrize("seed", range(8))
async def test_streams_lose_no_byte_while_the_channel_moves_under_load(seed: int) -> None:
    draw = random.Random(seed)
    async with MovingChannels(MANY_KEYS if seed % 2 else LinkLimits()) as pair:
        answering = [asyncio.create_task(_answer(end, pair)) for end in pair.ends]
        async with asyncio.TaskGroup() as talks:
            for i in range(100):
                size = draw.choice((0, 1, 1_000, 50_000, 700_000 if i % 10 == 0 else 10))
                talk = _talk(pair, pair.ends[i % 2], random.Random((seed, i).__hash__()), size)
                talks.create_task(talk)
            for _ in range(4):
                await asyncio.sleep(draw.random() * 0.05)
                outcomes = await pair.move(swapped=draw.random() < 0.5)
                assert outcomes == [*pair.ends]
                await wait_for(lambda: not any(end.mover.is_moving for end in pair.ends))
        assert len(pair.moved) == 8
        assert pair.leader.link is pair.links[-1][0]
        assert pair.follower.link is pair.links[-1][1]
        assert not pair.faults
        assert not any(end.closed for end in pair.ends)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


async def test_old_link_is_closed_cleanly_and_its_bytes_still_count() -> None:
    async with MovingChannels() as pair:
        near, far = pair.links[0]
        await pair.leader.ping(5)
        await pair.move()
        await wait_for(lambda: not any(end.mover.is_moving for end in pair.ends))
        for old, end in ((near, pair.leader), (far, pair.follower)):
            assert end.bytes_in == old.bytes_in + end.link.bytes_in
            assert end.bytes_out == old.bytes_out + end.link.bytes_out
        await wait_for(lambda: all("moved" in link._reason for link in (near, far)))
        await pair.leader.ping(5)


async def test_round_trips_are_measured_again_on_the_new_link() -> None:
    async with MovingChannels() as pair:
        await wait_for(lambda: pair.leader.rtt_known)
        pair.leader._pings._recent.extend([9.0] * 7)
        pair.leader._pings.srtt_s = 9.0
        await pair.move()
        await wait_for(lambda: pair.leader.rtt_known)
        assert pair.leader.srtt_s is not None
        assert pair.leader.srtt_s < 1


async def test_windows_outlive_the_move() -> None:
    async with MovingChannels() as pair:
        stream = pair.leader.open("/test/slow", Priority.BULK)
        writing = asyncio.create_task(stream.write(bytes(1_000_000)))
        far = await pair.inbound[pair.follower].get()
        await wait_for(lambda: far._receiving.buffered == INITIAL_WINDOW)
        await pair.move()
        await wait_for(lambda: not any(end.mover.is_moving for end in pair.ends))
        assert far._receiving.buffered == INITIAL_WINDOW
        assert await far.read_exactly(1_000_000) == bytes(1_000_000)
        await writing


@pytest.mark.parametrize("at_follower", [False, True])
async def test_new_link_waits_for_what_is_under_way_on_the_old_one(at_follower: bool) -> None:
    async with MovingChannels() as pair:
        receiver, sender = pair.ends[at_follower], pair.ends[not at_follower]
        stream = sender.open("/test/order", Priority.TENSOR)
        far = await pair.inbound[receiver].get()
        old = receiver.link
        old.pause_reading()
        await stream.write(b"first ")
        await pair.link_pair()
        joinings = pair.join(pair.links[-1])
        await joinings[0].outcome
        await wait_for(lambda: sender.link is pair.links[-1][not at_follower] or not at_follower)
        await stream.write(b"second")
        await asyncio.sleep(0.05)
        assert far._receiving.buffered == 0
        old.resume_reading()
        assert await far.read_exactly(12) == b"first second"


@pytest.mark.parametrize("at_follower", [False, True])
async def test_channel_that_moves_slowly_is_not_taken_for_dead(at_follower: bool) -> None:
    async with MovingChannels() as pair:
        end = pair.ends[at_follower]
        old = end.link
        old.pause_reading()
        joinings = pair.join(await pair.link_pair())
        await joinings[0].outcome
        probes = [asyncio.create_task(each.probe(0.05)) for each in pair.ends]
        with pytest.raises(TimedOut):
            await end.ping(0.2)
        assert not probes[at_follower].done()
        old.resume_reading()
        await asyncio.gather(*probes)
        await end.ping(5)


@pytest.mark.parametrize("victim", ["old", "new"])
@pytest.mark.parametrize("end", ["leader", "follower"])
@pytest.mark.parametrize("records", range(1, 8))
async def test_loss_of_either_link_at_any_step_ends_or_keeps_the_channel_whole(
    monkeypatch: pytest.MonkeyPatch, victim: str, end: str, records: int
) -> None:
    async with MovingChannels(keepalive_s=1.0) as pair:
        old, links = pair.links[0], await pair.link_pair()
        side = end == "follower"
        doomed = (old if victim == "old" else links)[side]
        counted = links[side]
        left = records

        def count(*parts: bytes | memoryview) -> None:
            nonlocal left
            left -= 1
            send(*parts)
            if left == 0:
                counted.flush()
                doomed.abort()

        send = counted.send
        monkeypatch.setattr(counted, "send", count)
        streams = [end_.open("/test/prefix", Priority.TENSOR) for end_ in pair.ends]
        said = [random.Random(i).randbytes(400_000) for i in range(2)]
        heard = [b"", b""]
        others = [await pair.inbound[end_].get() for end_ in reversed(pair.ends)]

        async def write(i: int) -> None:
            for at in range(0, len(said[i]), 4_000):
                await streams[i].write(said[i][at : at + 4_000])
                await asyncio.sleep(0)

        async def read(i: int) -> None:
            while len(heard[i]) < len(said[i]):
                heard[i] += await others[i].read()

        work = [asyncio.create_task(each(i)) for i in range(2) for each in (write, read)]
        await asyncio.sleep(0)
        pair.join(links)
        async with asyncio.timeout(10):
            results = await asyncio.gather(*work, return_exceptions=True)
        assert {type(r) for r in results} <= {type(None), PeerGone}
        assert all(s.startswith(h) for s, h in zip(said, heard, strict=True))
        if heard == said:
            assert not any(e.closed for e in pair.ends)
        else:
            await wait_for(lambda: all(e.closed for e in pair.ends))
        assert not pair.faults
        assert not any(e.mover.is_moving for e in pair.ends) or heard == said


@pytest.mark.parametrize("seed", range(10))
async def test_random_loss_under_load_delivers_prefixes_and_never_hangs(seed: int) -> None:
    draw = random.Random(seed)
    async with MovingChannels(MANY_KEYS, keepalive_s=1.0) as pair:
        said = [draw.randbytes(draw.choice((1_000, 100_000, 500_000))) for _ in range(100)]
        heard = [b""] * len(said)
        openers = [pair.ends[i % 2] for i in range(len(said))]
        streams = [end.open("/test/prefix", draw.choice(list(Priority))) for end in openers]
        others = [await pair.inbound[pair.ends[not i % 2]].get() for i in range(len(said))]

        async def write(i: int) -> None:
            for at in range(0, len(said[i]), 20_000):
                await streams[i].write(said[i][at : at + 20_000])
                await asyncio.sleep(0)

        async def read(i: int) -> None:
            while len(heard[i]) < len(said[i]):
                heard[i] += await others[i].read()

        work = [asyncio.create_task(each(i)) for i in range(len(said)) for each in (write, read)]
        await asyncio.sleep(draw.random() * 0.02)
        links = await pair.link_pair(swapped=seed % 2 == 0)
        joinings = pair.join(links)
        await asyncio.sleep(draw.random() * 0.01)
        draw.choice((*links, *pair.links[0])).abort()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*work, return_exceptions=True)
            await asyncio.wait([joining.outcome for joining in joinings])
        assert {type(r) for r in results} <= {type(None), PeerGone}
        assert all(s.startswith(h) for s, h in zip(said, heard, strict=True))
        assert heard == said or all(end.closed for end in pair.ends)
        assert not pair.faults
