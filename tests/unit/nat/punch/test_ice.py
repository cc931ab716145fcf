"""ICE between two agents on this machine: quick, bounded, and only with whom a session allows."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioice import stun

from aitorrent_nat.punch.candidates import Candidate, Kind
from aitorrent_nat.punch.paths import ice
from aitorrent_nat.punch.paths.datagrams import HostPort
from aitorrent_nat.punch.paths.ice import Agent, IcePath
from aitorrentd.api import Unavailable
from aitorrentd.api.tasks import Tasks
from tests.support.nat.paths import LOCAL
from tests.support.nat.sessions import Reflector
from tests.support.nodes import Leaks, wait_for


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioice leaves loopback out; a machine without a network has nothing else."""
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda use_ipv4, use_ipv6: [LOCAL])


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    leaks = Leaks()
    owner = Tasks(logging.getLogger("aitorrentd.test"))
    yield owner
    await owner.close()
    await leaks.check()


class Two:
    """Two agents that know of each other."""

    def __init__(self, tasks: Tasks) -> None:
        self.one, self.two = Agent(tasks, controlling=True), Agent(tasks, controlling=False)
        self.offered: list[list[Candidate]] = []

    async def gather(self, *servers: HostPort) -> None:
        self.offered = [await agent.gather(servers) for agent in (self.one, self.two)]

    async def connect(self, allowed: str = LOCAL) -> tuple[IcePath, IcePath]:
        one, two = await asyncio.gather(
            self.one.connect(self.two.user, self.two.password, self.offered[1], {allowed}),
            self.two.connect(self.one.user, self.one.password, self.offered[0], {allowed}),
        )
        return one, two

    async def close(self) -> None:
        await self.one.close()
        await self.two.close()


async def test_two_agents_find_a_path_that_carries_bytes_both_ways(tasks: Tasks) -> None:
    both = Two(tasks)
    await both.gather()
    one, two = await both.connect()
    heard: list[bytes] = []
    one.listen(heard.append, lambda reason: None)
    two.listen(heard.append, lambda reason: None)
    one.send(b"\x40one")
    two.send(b"\xc0two")
    await wait_for(lambda: sorted(heard) == [b"\x40one", b"\xc0two"])
    assert one.remote == two.local
    assert one.is_sized
    assert not one.is_turn
    await both.close()  # the paths outlive their session
    one.send(b"\x40more")
    await wait_for(lambda: b"\x40more" in heard)
    one.close()
    two.close()


async def test_the_servers_that_answer_tell_the_outer_address(tasks: Tasks) -> None:
    loop = asyncio.get_running_loop()
    mute, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (LOCAL, 0))
    server, _ = await loop.create_datagram_endpoint(Reflector, (LOCAL, 0))
    both = Two(tasks)
    began = loop.time()
    await both.gather(mute.get_extra_info("sockname"), server.get_extra_info("sockname"))
    assert loop.time() - began < 1
    kinds = [candidate.kind for candidate in both.offered[0]]
    assert kinds == [Kind.UDP_HOST, Kind.UDP]
    await both.close()
    mute.close()
    server.close()


@pytest.mark.parametrize("turns", range(6))
async def test_gathering_that_is_cancelled_leaves_no_socket(tasks: Tasks, turns: int) -> None:
    agent = Agent(tasks, controlling=True)
    gathering = asyncio.create_task(agent.gather(()))
    for _ in range(turns):
        await asyncio.sleep(0)
    gathering.cancel()
    await asyncio.wait({gathering})
    await agent.close()  # and `tasks` looks for what is left


async def test_silent_servers_delay_little(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "GATHER_S", 0.2)
    loop = asyncio.get_running_loop()
    mute, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, (LOCAL, 0))
    both = Two(tasks)
    await both.gather(mute.get_extra_info("sockname"))
    assert [each.kind for each in both.offered[0]] == [Kind.UDP_HOST]
    await both.close()
    mute.close()


async def test_a_peer_that_is_not_there_costs_the_deadline_and_no_more(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "CONNECT_S", 0.3)
    both = Two(tasks)
    await both.gather()
    with pytest.raises(Unavailable, match=r"within 0\.3 s"):
        await both.one.connect(both.two.user, "p" * 22, both.offered[1], {LOCAL})
    await both.close()


async def test_checks_from_hosts_that_the_session_does_not_allow_are_ignored(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "CONNECT_S", 0.3)
    both = Two(tasks)
    await both.gather()
    with pytest.raises(Unavailable):
        for path in await both.connect(allowed="11.1.0.2"):
            path.close()
    await both.close()


async def test_a_lost_first_check_is_repeated_at_once(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both first checks are lost, as at NATs that are not open yet."""
    monkeypatch.setattr("aioice.stun.RETRY_RTO", 9.0)
    both = Two(tasks)
    await both.gather()
    lost: set[int] = set()
    for agent in (both.one, both.two):
        for protocol in agent._connection._protocols:
            drop_first(protocol, lost)
    loop = asyncio.get_running_loop()
    began = loop.time()
    one, two = await both.connect()
    assert len(lost) == 2
    assert loop.time() - began < 5  # aioice alone: 9 s
    one.close()
    two.close()


def drop_first(protocol: Any, lost: set[int]) -> None:
    real = protocol.send_stun

    def send(message: stun.Message, addr: HostPort) -> None:
        if id(protocol) not in lost and message.message_class is stun.Class.REQUEST:
            lost.add(id(protocol))
        else:
            real(message, addr)

    protocol.send_stun = send


async def test_hostile_datagrams_reach_no_parser_that_fails(tasks: Tasks) -> None:
    both = Two(tasks)
    await both.gather()
    one, two = await both.connect()
    loop = asyncio.get_running_loop()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    stranger, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=two.local
    )
    draws = random.Random(5)
    request = bytes(stun.Message(stun.Method.BINDING, stun.Class.REQUEST))
    for _ in range(500):
        raw = bytearray(request + draws.randbytes(draws.randrange(60)))
        raw[2:4] = (len(raw) - 20).to_bytes(2, "big")
        for _ in range(draws.randrange(4)):
            raw[draws.randrange(20, max(21, len(raw))) % len(raw)] = draws.randrange(256)
        stranger.sendto(bytes(raw))
    stranger.sendto(b"")
    heard: list[bytes] = []
    two.listen(heard.append, lambda reason: None)
    one.send(b"\x40still")
    await wait_for(lambda: b"\x40still" in heard)
    assert errors == []
    stranger.close()
    one.close()
    two.close()


async def test_a_peer_that_no_longer_consents_is_noticed(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioice.ice.CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr("aioice.ice.CONSENT_FAILURES", 2)
    monkeypatch.setattr("aioice.stun.RETRY_RTO", 0.05)
    both = Two(tasks)
    await both.gather()
    one, two = await both.connect()
    lost: list[str] = []
    one.listen(lambda datagram: None, lost.append)
    two.close()
    await wait_for(lambda: lost == ["the peer does not answer checks of the path any more"])
