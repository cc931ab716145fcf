"""The list of a server's models, also of one that is a node's API and asks back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from aitorrentd.api import ModelView, Unavailable
from aitorrentd.api.relays import loops
from aitorrentd.api.relays.served import Served, ServedModels
from tests.support.clocks import LoopClock

pytestmark = pytest.mark.jump_clock
LOG = logging.getLogger("test")


class Relay:
    """A node with a model of its own name, and with other nodes as servers."""

    def __init__(self, name: str, host: str = "127.0.0.1") -> None:
        self.name, self.host = name, host
        self.asked = 0
        self.is_down = self.is_gone = False
        self.servers: list[tuple[Relay, ServedModels]] = []

    def use(self, server: Relay) -> ServedModels:
        async def ask() -> Served:
            nodes = (*loops.passed(), self.name)
            # A request over HTTP: a task of its own at the other node, later.
            return Served(await asyncio.create_task(server.answered(nodes)))

        url = f"http://{server.host}:8000/v1"
        made = ServedModels(
            server.name, url, ask, fresh_s=2.0, retry_s=2.0, clock=LoopClock(), log=LOG
        )
        self.servers.append((server, made))
        return made

    async def answered(self, nodes: tuple[str, ...]) -> Sequence[ModelView]:
        await asyncio.sleep(0.01)
        if loops.returns(nodes, self.name):
            raise Unavailable("came back")
        loops.note(nodes)
        return await self.listed()

    async def listed(self) -> Sequence[ModelView]:
        self.asked += 1
        if self.is_down:
            raise Unavailable("down")
        found = [] if self.is_gone else [ModelView(self.name, "own")]
        for _, server in self.servers:
            try:
                found += await server.views()
            except Unavailable:
                continue
        return found

    async def names(self) -> list[str]:
        return [view.name for view in await self.listed()]


def pair() -> tuple[Relay, Relay]:
    a, b = Relay("a"), Relay("b")
    a.use(b)
    b.use(a)
    return a, b


async def test_nodes_that_are_each_others_servers_do_not_wait_for_each_other() -> None:
    a, b = pair()
    began = asyncio.get_running_loop().time()
    assert [*await asyncio.gather(a.names(), b.names())] == [["a", "b"], ["b", "a"]]
    assert asyncio.get_running_loop().time() - began < 0.1


async def test_what_a_server_refuses_to_others_does_not_hide_its_models_from_us() -> None:
    a, b = pair()
    assert await b.names() == ["b", "a"]  # a was asked, and could not ask b
    assert await a.names() == ["a", "b"]
    await asyncio.sleep(3)
    assert await b.names() == ["b", "a"]
    assert await a.names() == ["a", "b"]


async def test_three_in_a_ring_see_all() -> None:
    a, b, c = Relay("a"), Relay("b"), Relay("c")
    a.use(b)
    b.use(c)
    c.use(a)
    found = [*await asyncio.gather(a.names(), b.names(), c.names())]
    assert found == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


async def test_a_model_that_is_gone_is_forgotten_in_a_ring_of_any_size() -> None:
    ring = [Relay(name) for name in "abcdef"]
    for n, relay in enumerate(ring):
        relay.use(ring[(n + 1) % len(ring)])
    for _ in range(3):
        for relay in ring:
            assert relay.name in await relay.names()
        await asyncio.sleep(1)
    ring[3].is_gone = True
    for _ in range(9):
        for relay in ring:
            last = await relay.names()
        await asyncio.sleep(1)
    assert "d" not in last
    assert [relay.name for relay in ring if "d" in await relay.names()] == []


async def test_a_request_that_came_over_many_nodes_is_not_passed_on() -> None:
    a, b = Relay("a"), Relay("b")
    server = a.use(b)
    await server.views()
    with pytest.raises(Unavailable, match="b is not asked for a request that came over 3 nodes"):
        await asyncio.create_task(asked_from(server, ("x", "y", "z")))
    assert b.asked == 1


async def asked_from(server: ServedModels, nodes: tuple[str, ...]) -> Sequence[ModelView]:
    loops.note(nodes)
    return await server.views()


async def test_those_who_ask_at_the_same_time_share_an_answer_for_a_while() -> None:
    a, b = Relay("a"), Relay("b")
    server = a.use(b)
    await asyncio.gather(*(server.views() for _ in range(9)))
    assert b.asked == 1
    for n in range(99):  # made-up nodes cost a request each, and no memory
        await asyncio.create_task(asked_from(server, (f"x{n}",)))
    assert len(server._ways) <= 16
    b.is_down = True
    await server.views()
    await asyncio.sleep(2.1)
    with pytest.raises(Unavailable, match="down"):
        await server.views()
    assert server.failure is not None


async def test_service_on_the_internet_has_one_list_whoever_asks() -> None:
    """It is told no nodes, and may cost money; so a client that names many costs nothing."""
    a, service = Relay("a"), Relay("service", host="api.example.com")
    a.use(service)
    ways = [(), *((f"node{n}",) for n in range(20)), ("x", "y", "z")]
    for passed in ways:
        found = await asyncio.create_task(a.answered(passed))
        assert [view.name for view in found] == ["a", "service"]
    assert service.asked == 1
