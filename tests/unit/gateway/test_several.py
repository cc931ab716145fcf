"""Several answers to one request, by a peer with few places or one that limits calls."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from functools import partial

import pytest

from aitorrent_gateway.core.several import MOST_WAIT_S, PAUSES_S, all_ahead
from aitorrentd.api import Busy, Chunk
from aitorrentd.api.limits import TokenBucket

pytestmark = pytest.mark.jump_clock
AT_ONCE = 8


class Peer:
    """Answers in two chunks. A place is free `late_s` after its answer ended, and a refusal comes
    after a round trip."""

    def __init__(
        self, *buckets: TokenBucket, places: int = 5, late_s: float = 0.0, took_s: float = 1.0
    ) -> None:
        self.buckets = buckets
        self.free, self.late_s, self.took_s = places, late_s, took_s
        self.refused = 0

    async def answer(self, n: int) -> AsyncGenerator[Chunk]:
        loop = asyncio.get_running_loop()
        yield Chunk("", notice="model m is loading")
        wait_s = max((bucket.due_s(loop.time()) for bucket in self.buckets), default=0)
        if wait_s:
            self.refused += 1
            await asyncio.sleep(0.05)
            raise Busy("too many calls", retry_after_s=math.ceil(wait_s))
        for bucket in self.buckets:
            bucket.take(loop.time())
        if not self.free:
            self.refused += 1
            raise Busy("Too many requests")
        self.free -= 1
        try:
            await asyncio.sleep(self.took_s / 2)
            yield Chunk(f"{n}")
            await asyncio.sleep(self.took_s / 2)
            yield Chunk("", done=True, reason="stop")
        finally:
            if self.late_s:
                loop.call_later(self.late_s, self._leave)
            else:
                self._leave()

    def _leave(self) -> None:
        self.free += 1


async def answered(peer: Peer, count: int) -> float:
    """Have a peer answer so often; return the seconds that it took.

    Raises:
        Busy: it did not.
    """
    loop = asyncio.get_running_loop()
    began, texts, ended = loop.time(), [""] * count, 0
    sources = [partial(peer.answer, n) for n in range(count)]
    async with all_ahead(sources, AT_ONCE) as pieces:
        while ended < count:
            for n, chunk in await pieces.batch():
                texts[n] += chunk.text
                ended += chunk.done
    assert texts == [f"{n}" for n in range(count)]
    return loop.time() - began


@pytest.mark.parametrize("late_s", [0.0, 0.02, 0.2])
async def test_all_places_are_used_to_the_end(late_s: float) -> None:
    peer = Peer(late_s=late_s)
    waves = math.ceil(64 / peer.free)
    pauses_s = {0.0: 0.0, 0.02: PAUSES_S[0], 0.2: sum(PAUSES_S[:2])}[late_s]
    assert await answered(peer, 64) == pytest.approx(waves * (1 + pauses_s), abs=1.2)
    refused_each = {0.0: 0, 0.02: 1, 0.2: 2}[late_s]
    assert peer.refused <= AT_ONCE - 5 + refused_each * 64


def bucket(each_s: float, count: int) -> TokenBucket:
    """Allows `count` calls, and a further one every so many seconds."""
    return TokenBucket(1 / each_s, count, asyncio.get_running_loop().time())


@pytest.mark.parametrize("each_s", [0.6, 3.6])
async def test_peer_that_limits_calls_is_left_alone_as_long_as_it_says(each_s: float) -> None:
    """Each call too many would bring this node nearer to a ban."""
    peer = Peer(bucket(each_s, 10), places=AT_ONCE)
    assert await answered(peer, 30) == pytest.approx(20 * math.ceil(each_s), rel=0.2)
    assert peer.refused <= AT_ONCE + 3


async def test_whoever_waits_already_heeds_a_longer_wait() -> None:
    peer = Peer(bucket(0.6, 10), bucket(7.5, 14), places=AT_ONCE)
    assert await answered(peer, 20) == pytest.approx(6 * 8, rel=0.4)
    assert peer.refused <= AT_ONCE + 3


async def test_limit_of_calls_takes_no_place() -> None:
    peer = Peer(bucket(1, 3), places=AT_ONCE, took_s=30)
    assert await answered(peer, 24) == pytest.approx(3 * 30 + 7, abs=12)


async def test_peer_that_always_says_later_ends_the_request() -> None:
    with pytest.raises(Busy, match="later"):
        await answered(Later(bucket(10_000, 1)), 3)


class Later(Peer):
    """Always says that it can be asked in a second."""

    async def answer(self, n: int) -> AsyncGenerator[Chunk]:
        try:
            async for chunk in super().answer(n):
                yield chunk
        except Busy:
            raise Busy("later", retry_after_s=1) from None


@pytest.mark.parametrize("count", [2, 20])
async def test_peer_without_any_place_refuses_at_once(count: int) -> None:
    """So that the client learns it by the status, and tries again by itself."""
    loop = asyncio.get_running_loop()
    began, peer = loop.time(), Peer(places=0)
    with pytest.raises(Busy):
        await answered(peer, count)
    assert (loop.time() - began, peer.refused) == (0, min(count, AT_ONCE))


async def test_peer_that_is_to_be_left_alone_for_long_ends_the_request() -> None:
    peer = Peer(bucket(MOST_WAIT_S + 2, 10), places=AT_ONCE)
    with pytest.raises(Busy) as refused:
        await answered(peer, 30)
    assert refused.value.data["retry_after_s"] > MOST_WAIT_S
