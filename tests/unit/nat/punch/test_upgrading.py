"""When a relayed channel is tried again: at once, every minute, rarer without hope, on changes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from aitorrent_nat.punch.upgrading import EVERY_S, GRACE_S, MOST_S, RECENT_S, Upgrades
from aitorrentd.api import (
    Event,
    NetworkChanged,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    PeerRouteChanged,
    PluginContext,
    Transport,
)
from aitorrentd.api.tasks import Tasks
from tests.support.clocks import LoopClock

pytestmark = pytest.mark.jump_clock
ME, LOWER, HIGHER = PeerId("m"), PeerId("a"), PeerId("z")


class World:
    """A node with relayed channels, and the sessions that it begins."""

    def __init__(self) -> None:
        self.relayed: set[PeerId] = set()
        self.begun: list[tuple[PeerId, float]] = []
        self.becomes_direct = False
        self.has_hope = True
        self.clock = LoopClock()
        self.random = random.Random(1)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.tasks = Tasks(logging.getLogger("aitorrentd.test"))
        transport = SimpleNamespace(node_id=ME, peers=list)
        self.upgrades = Upgrades(
            cast(PluginContext, self),
            self.tasks,
            cast(Transport, transport),
            self.relayed.__contains__,
            self._punch,
        )
        self.tasks.spawn(self.upgrades.run(), "upgrades")

    async def _punch(self, peer: PeerId) -> bool:
        self.begun.append((peer, self.clock.monotonic()))
        self.upgrades.session_ended(peer)
        if self.becomes_direct:
            self.relayed.discard(peer)
        return self.has_hope

    @contextmanager
    def subscribe(self, *kinds: type[Event]) -> Iterator[AsyncIterator[Event]]:
        async def events() -> AsyncIterator[Event]:
            while True:
                yield await self._events.get()

        yield events()

    def connect(self, peer: PeerId) -> None:
        self.relayed.add(peer)
        self.tell(PeerConnected(peer, "", True))

    def tell(self, event: Event) -> None:
        self._events.put_nowait(event)

    def times(self, peer: PeerId) -> list[float]:
        return [at for each, at in self.begun if each == peer]

    def pauses(self, peer: PeerId) -> list[float]:
        times = self.times(peer)
        return [after - before for before, after in itertools.pairwise(times)]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.tasks.close()


async def test_the_lower_end_begins_at_once_and_every_minute(world: World) -> None:
    began = world.clock.monotonic()
    world.connect(HIGHER)
    await asyncio.sleep(10 * EVERY_S)
    assert world.times(HIGHER)[0] == began
    assert all(0.74 * EVERY_S < pause < 1.26 * EVERY_S for pause in world.pauses(HIGHER))
    assert len(set(world.pauses(HIGHER))) > 3  # jitter
    assert world.upgrades.waiting == 1


async def test_the_higher_end_waits_for_the_lower_one(world: World) -> None:
    world.connect(LOWER)
    await asyncio.sleep(GRACE_S / 2)
    assert not world.begun
    world.upgrades.session_ended(LOWER)  # the peer began
    await asyncio.sleep(RECENT_S)
    assert not world.begun
    await asyncio.sleep(3 * EVERY_S)
    assert world.begun  # the peer begins no more


async def test_without_hope_attempts_become_rare(world: World) -> None:
    world.has_hope = False
    world.connect(HIGHER)
    await asyncio.sleep(20 * MOST_S)
    pauses = world.pauses(HIGHER)
    assert pauses[0] < pauses[2] < pauses[4]
    assert 0.74 * MOST_S < pauses[-1] < 1.26 * MOST_S


async def test_a_change_of_the_network_is_an_occasion(world: World) -> None:
    world.has_hope = False
    world.connect(HIGHER)
    await asyncio.sleep(20 * MOST_S)
    count = len(world.begun)
    world.tell(NetworkChanged())
    await asyncio.sleep(2)
    assert len(world.begun) == count + 1


async def test_a_nat_that_becomes_known_is_an_occasion(world: World) -> None:
    world.connect(HIGHER)
    await asyncio.sleep(1)
    assert len(world.begun) == 1  # by ways that do not suit this NAT
    world.upgrades.try_again()
    await asyncio.sleep(2)
    assert len(world.begun) == 2


async def test_a_direct_channel_is_left_alone(world: World) -> None:
    world.becomes_direct = True
    world.connect(HIGHER)
    await asyncio.sleep(10 * EVERY_S)
    assert len(world.begun) == 1
    assert world.upgrades.waiting == 0


async def test_a_direct_channel_that_was_soon_lost_is_not_sought_at_once(world: World) -> None:
    world.becomes_direct = True
    world.connect(HIGHER)
    await asyncio.sleep(5)
    world.connect(HIGHER)
    await asyncio.sleep(0.7 * EVERY_S)
    assert len(world.begun) == 1
    await asyncio.sleep(EVERY_S)
    assert len(world.begun) == 2
    await asyncio.sleep(10 * EVERY_S)
    world.connect(HIGHER)  # lasted long enough
    await asyncio.sleep(1)
    assert len(world.begun) == 3


@pytest.mark.parametrize("event", [PeerDisconnected(HIGHER, ""), PeerRouteChanged(HIGHER, "quic")])
async def test_what_ends_a_relayed_channel_ends_its_attempts(world: World, event: Event) -> None:
    world.connect(HIGHER)
    await asyncio.sleep(1)
    world.relayed.clear()
    world.tell(event)
    await asyncio.sleep(2)
    assert world.upgrades.waiting == 0
    assert len(world.begun) == 1
