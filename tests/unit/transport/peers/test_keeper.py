"""Redialling in virtual time: a crowd spreads out, and a change of the network cuts the wait."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aitorrent_transport.peers import keeper as keeper_module
from aitorrent_transport.peers.keeper import Keeper
from aitorrentd.api import PeerId, Unavailable
from aitorrentd.api.network.addresses import parse_address
from tests.support.transport.transport_nodes import Identity

pytestmark = pytest.mark.jump_clock
HUB = parse_address("203.0.113.1:8468")
HUB_ID = Identity("hub").peer_id


class Hub:
    """A bootstrap node: up or down, with the times at which it was dialled."""

    def __init__(self) -> None:
        self.is_up = True
        self.is_unresolved = False
        self.arrivals: list[float] = []
        self.attempts: list[float] = []
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def restart(self) -> None:
        self.is_up = False
        gone, self.gone = self.gone, asyncio.get_running_loop().create_future()
        gone.set_result("lost")


class Peer:
    def __init__(self, hub: Hub, now: float) -> None:
        self.id = HUB_ID
        self.gone = hub.gone
        self.since = now


class Node:
    """A keeper with all that it needs, for one node; stands in for table and dialler."""

    def __init__(self, hub: Hub, draw: random.Random, file: Path | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.hub = hub
        self.peer: Peer | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        ctx: Any = type("Ctx", (), {})()
        ctx.clock = type("Clock", (), {"monotonic": staticmethod(loop.time)})()
        ctx.random = draw
        ctx.log = type("Log", (), {"debug": staticmethod(lambda *a: None)})()
        ctx.identity = Identity("node")
        me: Any = self
        self.keeper = Keeper(ctx, me, me, me, me)
        if file is None:
            self.keeper.keep_forever(HUB)
        else:
            self.keeper.keep_file(file)

    def spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self.tasks.add(task)
        return task

    def get(self, peer: PeerId | None) -> Peer | None:
        if self.peer is not None and self.peer.gone.done():
            self.peer = None
        return self.peer

    async def connect(self, peer: PeerId, extra: Any) -> Peer:
        raise Unavailable("no other address is known")

    async def dial(self, address: Any) -> Peer:
        loop = asyncio.get_running_loop()
        self.hub.attempts.append(loop.time())
        if not self.hub.is_up:
            causes = {"unresolved": True} if self.hub.is_unresolved else {}
            raise Unavailable("down", **causes)
        self.hub.arrivals.append(loop.time())
        self.peer = Peer(self.hub, loop.time())
        return self.peer

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def test_thousand_peers_of_a_restarted_bootstrap_do_not_arrive_at_once() -> None:
    hub = Hub()
    draw = random.Random(5)
    nodes = [Node(hub, random.Random(draw.random())) for _ in range(1000)]
    await asyncio.sleep(60)
    assert len(hub.arrivals) == 1000
    hub.arrivals.clear()
    hub.attempts.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    hub.restart()
    await asyncio.sleep(10)  # it restarts
    hub.is_up = True
    up = loop.time()
    await asyncio.sleep(90)
    assert len(hub.arrivals) == 1000
    most = max(
        sum(at <= each < at + 1.0 for each in hub.arrivals) for at in range(int(up), int(up) + 60)
    )
    assert most < 200, "within a second"
    half = sorted(hub.arrivals)[500] - up
    assert half < 10, "half of them are back within 10 s"
    first = [at - began for at in hub.attempts if at - began < 1]
    most = max(sum(a / 10 <= x < (a + 1) / 10 for x in first) for a in range(10))
    assert most < 250, "within a tenth of a second after the loss"
    for node in nodes:
        await node.stop()


async def test_changed_network_ends_the_wait_and_the_backoff() -> None:
    hub = Hub()
    hub.is_up = False
    node = Node(hub, random.Random(1))
    loop = asyncio.get_running_loop()
    await asyncio.sleep(600)
    pauses = [b - a for a, b in pairwise(hub.attempts[8:])]
    assert max(pauses) > 20, "by now attempts are far apart"
    hub.is_up = True
    changed = loop.time()
    node.keeper.network_changed()
    await asyncio.sleep(1.1)
    assert hub.arrivals and hub.arrivals[0] - changed <= 1.0
    await node.stop()


async def test_name_that_does_not_resolve_is_tried_every_few_seconds() -> None:
    hub = Hub()
    hub.is_up, hub.is_unresolved = False, True
    node = Node(hub, random.Random(1))
    await asyncio.sleep(600)
    pauses = [b - a for a, b in pairwise(hub.attempts)]
    assert max(pauses) <= keeper_module.UNRESOLVED_WAIT_S
    assert len(pauses) < 600, "and not all the time"
    await node.stop()


async def test_rewritten_address_file_ends_the_wait_and_the_backoff(tmp_path: Path) -> None:
    hub = Hub()
    file = tmp_path / "daemon.addr"
    node = Node(hub, random.Random(1), file)
    loop = asyncio.get_running_loop()
    longest = keeper_module.LOOK_S + 1.1
    await asyncio.sleep(600)
    assert not hub.attempts

    file.write_text(f"{HUB}\n")
    written = loop.time()
    await asyncio.sleep(longest)
    assert hub.arrivals and hub.arrivals[0] - written < longest

    hub.restart()
    await asyncio.sleep(600)
    pauses = [b - a for a, b in pairwise(hub.attempts[8:])]
    assert max(pauses) > 20, "an old file is not dialled all the time"
    file.write_text(f"# at the same place\n{HUB}\n")
    hub.is_up, written = True, loop.time()
    hub.arrivals.clear()
    await asyncio.sleep(longest)
    assert hub.arrivals and hub.arrivals[0] - written < longest
    await node.stop()
