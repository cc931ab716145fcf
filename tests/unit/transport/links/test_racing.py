"""Names with dead addresses, and name servers that do not answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aitorrent_transport.links.racing import connect_tcp, interleaved
from aitorrentd.api import TimedOut, Unavailable
from aitorrentd.api.network.resolver import MAX_ADDRESSES, Found, Resolver

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


@asynccontextmanager
async def listening(host: str = "127.0.0.1") -> Any:
    server = await asyncio.start_server(lambda r, w: w.close(), host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """An address that accepts nobody and refuses nobody: its backlog is full."""
    with socket.socket() as sock, socket.socket() as one, socket.socket() as two:
        sock.bind(("127.0.0.2", 0))
        sock.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[:2]


async def test_first_address_that_drops_packets_costs_a_quarter_of_a_second(
    silent: tuple[str, int],
) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", silent[1])
    async with server:
        resolver = Resolver(lambda host: [(V4, silent[0]), (V4, "127.0.0.1")])
        async with asyncio.timeout(5):
            transport = await connect_tcp(asyncio.Protocol, "hub.case", silent[1], resolver)
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        transport.close()


async def test_address_that_refuses_costs_nothing() -> None:
    async with listening() as port:
        resolver = Resolver(lambda host: [(V4, "127.0.0.3"), (V6, "::1"), (V4, "127.0.0.1")])
        async with asyncio.timeout(5):
            transport = await connect_tcp(
                asyncio.Protocol, "hub.case", port, resolver, delay_s=60.0
            )
        transport.close()


async def test_error_of_the_first_address_is_told_when_all_fail() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        resolver = Resolver(lambda host: [(V4, "127.0.0.1"), (V4, "127.0.0.3")])
        with pytest.raises(ConnectionRefusedError):
            await connect_tcp(asyncio.Protocol, "x", closed.getsockname()[1], resolver)


def test_families_take_turns_beginning_with_the_preferred_one() -> None:
    found: Found = [(V6, "a"), (V6, "b"), (V6, "c"), (V4, "1")]
    assert interleaved(found) == [(V6, "a"), (V4, "1"), (V6, "b"), (V6, "c")]


async def test_ip_address_needs_no_lookup() -> None:
    resolver = Resolver(lambda host: pytest.fail("looked up"))
    assert await resolver.resolve("192.0.2.1") == [(V4, "192.0.2.1")]
    assert await resolver.resolve("2001:db8::1") == [(V6, "2001:db8::1")]


async def test_slow_name_holds_up_neither_others_nor_the_end() -> None:
    answer = threading.Event()
    asked: list[str] = []

    def lookup(host: str) -> Found:
        asked.append(host)
        if host == "slow.case":
            answer.wait(30)
        return [(V4, "192.0.2.7")]

    resolver = Resolver(lookup, max_lookups=2)
    try:
        for _ in range(3):
            with pytest.raises(TimedOut, match="did not answer for slow.case within 0.01 s"):
                await resolver.resolve("slow.case", 0.01)
        assert asked == ["slow.case"], "one thread for one name"
        assert await resolver.resolve("quick.case") == [(V4, "192.0.2.7")]
        waiting = asyncio.create_task(resolver.resolve("slow.case"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waiting = asyncio.create_task(resolver.resolve("slow.case"))
        await asyncio.sleep(0)
        answer.set()
        assert await waiting == [(V4, "192.0.2.7")]
    finally:
        answer.set()


async def test_name_of_one_version_of_ip_gives_no_address_of_the_other() -> None:
    both: Found = [(socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "192.0.2.1")]
    resolver = Resolver(lambda host: both if host == "both" else both[:1])
    assert await resolver.resolve("both", version=4) == both[1:]
    assert await resolver.resolve("both", version=6) == both[:1]
    assert await resolver.resolve("both") == both
    with pytest.raises(OSError, match="no IPv4 address"):
        await resolver.resolve("six", version=4)


async def test_names_that_wait_are_bounded() -> None:
    answer = threading.Event()
    resolver = Resolver(lambda host: [(V4, "192.0.2.7")] * answer.wait(30), max_lookups=2)
    try:
        for host in ("a.case", "b.case"):
            with pytest.raises(TimedOut):
                await resolver.resolve(host, 0.01)
        with pytest.raises(Unavailable, match="2 host names are waiting for the name server"):
            await resolver.resolve("c.case", 0.01)
    finally:
        answer.set()


async def test_every_lookup_asks_anew_and_takes_a_bounded_number_of_addresses() -> None:
    answers = iter([[(V4, "192.0.2.1")], [(V4, f"192.0.2.{i}") for i in range(99)]])
    resolver = Resolver(lambda host: next(answers))
    assert await resolver.resolve("moves.case") == [(V4, "192.0.2.1")]
    assert len(await resolver.resolve("moves.case")) == MAX_ADDRESSES


async def test_name_that_does_not_resolve_says_so() -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("no-such-host.invalid")
