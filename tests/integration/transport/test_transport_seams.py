"""What plugins add to the transport: ways to reach a peer, connections, addresses, sources."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from aitorrentd.api import (
    ADVERTISERS,
    ATTEMPTS,
    DIALERS,
    DIRECTORY,
    DIRECTORY_SOURCES,
    PEER_PORT,
    MakeProtocol,
    PeerId,
    Record,
    Route,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.network.addresses import Address, parse_address
from tests.support.nodes import wait_for
from tests.support.transport.brought import relay_route, secured
from tests.support.transport.transport_nodes import ECHO, node

NOWHERE = "/dns/behind.nat.invalid/tcp/9"


class Forwarder:
    """A dialer that reaches one node, whatever the address says."""

    name = "forwarder"

    def __init__(self, port: int) -> None:
        self.port = port
        self.tried: list[str] = []

    def can_try(self, address: Address) -> bool:
        return address.host.endswith(".nat.invalid")

    def route(self, address: Address) -> Route | None:
        return Route("forwarded", address.location, is_relayed=True)

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        self.tried.append(str(address))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(make_protocol, "127.0.0.1", self.port)
        return transport


async def test_a_second_dialer_reaches_whom_direct_does_not(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        dialers = a.kernel.service(DIALERS)
        assert dialers.names() == ["direct"]
        address = f"{NOWHERE}/p2p/{b.id}"
        with pytest.raises(Unavailable, match=r"behind\.nat\.invalid:9 cannot be reached"):
            await a.transport.connect(address)
        forwarder = Forwarder(b.port)
        with dialers.added(forwarder.name, forwarder):
            stream = await a.transport.open_stream(b.id, ECHO, addresses=[address])
            await stream.write(b"by another way")
            assert await stream.read_exactly(14) == b"by another way"
            stream.reset()
        assert forwarder.tried == [address]


async def test_direct_comes_first_and_a_dialer_that_cannot_try_is_not_asked(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        forwarder = Forwarder(b.port)
        with a.kernel.service(DIALERS).added(forwarder.name, forwarder):
            assert (await a.transport.connect(b.address)).id == b.id
            with pytest.raises((Unavailable, TimedOut), match="127.0.0.1:1"):
                await a.transport.connect("127.0.0.1:1")
        assert forwarder.tried == []


async def test_another_way_is_no_way_around_the_handshake(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        forwarder = Forwarder(c.port)
        with (
            a.kernel.service(DIALERS).added(forwarder.name, forwarder),
            pytest.raises(Unavailable, match=f"the peer at that address is {c.id}, not {b.id}"),
        ):
            await a.transport.connect(f"{NOWHERE}/p2p/{b.id}")
        assert len(forwarder.tried) == 1
        assert a.transport.peers() == []


async def test_the_route_of_a_channel_is_what_the_dialer_says(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        forwarder = Forwarder(b.port)
        with a.kernel.service(DIALERS).added(forwarder.name, forwarder):
            view = await a.transport.connect(f"{NOWHERE}/p2p/{b.id}")
        assert (view.route, view.address, view.host) == ("forwarded", NOWHERE, "")
        # What the forwarder's address would be mistaken for is not told.
        assert b.transport.peers()[0].observed == ""
        assert view.observed.startswith("127.0.0.1:")


async def test_attempts_are_recorded_with_their_outcome(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        attempts = a.kernel.service(ATTEMPTS)
        with pytest.raises(Unavailable):
            await a.transport.connect(f"{NOWHERE}/p2p/{b.id}")
        forwarder = Forwarder(b.port)
        with a.kernel.service(DIALERS).added(forwarder.name, forwarder):
            await a.transport.connect(f"{NOWHERE}/p2p/{b.id}")
        failed, failed_again, succeeded = attempts.of(b.id)
        assert (failed.way, failed.ok, failed.where) == ("direct", False, NOWHERE)
        assert "does not resolve" in failed.outcome or "cannot be reached" in failed.outcome
        assert (failed_again.way, failed_again.ok) == ("direct", False)
        assert (succeeded.way, succeeded.ok, succeeded.outcome) == ("forwarder", True, "connected")
        assert succeeded.took_s < 10 and succeeded.at >= failed.at > 0
        assert attempts.of(a.id) == []


async def test_a_connection_that_a_plugin_brings_becomes_a_channel(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        ports = a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT)
        there, here = await secured(*ports, a.id, b.id)
        assert (there.id, there.outbound, there.route) == (b.id, True, "brought")
        assert (here.id, here.outbound, here.host) == (a.id, False, "192.0.2.1")
        stream = await b.transport.open_stream(a.id, ECHO)
        await stream.write(b"over a pair")
        assert await stream.read_exactly(11) == b"over a pair"
        stream.reset()


async def test_a_direct_channel_replaces_one_through_a_relay_and_not_the_reverse(
    tmp_path: Path,
) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        ports = a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT)
        there, here = await secured(*ports, a.id, b.id, relay_route(c.id))
        assert (there.route, here.route, here.observed, here.host) == ("relay", "relay", "", "")
        await secured(*ports, a.id, b.id)
        for each in (a, b):
            await wait_for(lambda: [p.route for p in each.transport.peers()] == ["brought"])  # noqa: B023
        await secured(*ports, a.id, b.id, relay_route(c.id))
        assert [p.route for p in a.transport.peers()] == ["brought"]
        assert [p.route for p in b.transport.peers()] == ["brought"]


async def test_a_brought_connection_to_another_peer_is_rejected(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b, node(tmp_path, "c") as c:
        ports = a.kernel.service(PEER_PORT), b.kernel.service(PEER_PORT)
        with pytest.raises(Unavailable, match=f"is {b.id}, not {c.id}"):
            await secured(*ports, a.id, c.id)
        assert a.transport.peers() == []


class Shout:
    """Another protocol on the peer port: answers in upper case."""

    magic = b"SHUT"

    def __init__(self) -> None:
        self.remotes: list[tuple[str, int]] = []

    def serve(self, remote: tuple[str, int], accept: Callable[[], None]) -> asyncio.Protocol:
        self.remotes.append(remote)
        return _Shouting(accept)


class _Shouting(asyncio.Protocol):
    def __init__(self, accept: Callable[[], None]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if b"open sesame" in data:
            self._accept()
        cast(asyncio.Transport, self._transport).write(data.upper())


async def test_a_preface_takes_over_connections_that_begin_with_it(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        port = a.kernel.service(PEER_PORT)
        shout = Shout()
        listener = a.transport.listener
        with port.prefaces.added("shout", shout):
            reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
            for part in (b"SH", b"UT one"):
                writer.write(part)
                await writer.drain()
            assert await reader.readexactly(8) == b"SHUT ONE"
            assert listener.statistics()["half_open"] == 1
            writer.write(b" open sesame")
            assert await reader.readexactly(12) == b" OPEN SESAME"
            assert listener.statistics()["half_open"] == 0
            assert shout.remotes == [writer.get_extra_info("sockname")]
            # Peers are as welcome as before, and an unaccepted connection is cleaned up.
            await b.transport.connect(a.address)
            other, leaving = await asyncio.open_connection("127.0.0.1", a.port)
            leaving.write(b"SHUT two")
            await other.readexactly(8)
            leaving.close()
            await wait_for(lambda: listener.statistics()["half_open"] == 0)
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", a.port)
        writer.write(b"SHUT again")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()


class Mapped:
    """Knows a forwarded port and a relay."""

    def __init__(self, relay: PeerId) -> None:
        self.texts = [f"/ip4/192.0.2.9/tcp/7/p2p/{relay}/p2p-circuit", "/ip4/203.0.113.5/tcp/4711"]

    def addresses(self) -> list[Address]:
        return [parse_address(text) for text in self.texts]


async def test_advertised_addresses_are_announced_and_those_of_relays_last(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await b.transport.connect(a.address)
        with a.kernel.service(ADVERTISERS).added("mapped", Mapped(b.id)):
            told = a.transport.addresses()
            assert told[0] == a.address
            circuit = f"/ip4/192.0.2.9/tcp/7/p2p/{b.id}/p2p-circuit/p2p/{a.id}"
            assert told[-2:] == [f"/ip4/203.0.113.5/tcp/4711/p2p/{a.id}", circuit]
            await wait_for(lambda: told[-1] in b.transport.addresses_of(a.id), 20)
        assert a.transport.addresses() == [a.address]


class Lookup:
    """A source of the directory that finds one record, as a network-wide one would."""

    def __init__(self, found: Record) -> None:
        self.found = found
        self.said: dict[str, Mapping[str, Any]] = {}

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        self.said[key] = value

    def withdraw(self, key: str) -> None:
        self.said.pop(key, None)

    def known(self, prefix: str) -> Sequence[Record]:
        return []

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        return [self.found] if key == self.found.key else []


async def test_a_second_source_of_the_directory_is_asked_and_told(tmp_path: Path) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await b.transport.connect(a.address)
        directory = b.kernel.service(DIRECTORY)
        sources = b.kernel.service(DIRECTORY_SOURCES)
        assert sources.names() == ["channels"]
        a.kernel.service(DIRECTORY).publish("ait:cap:m", {"v": 1})
        directory.publish("ait:cap:m", {"v": 2})
        await wait_for(lambda: len(directory.known("ait:cap:m")) == 2)
        stranger = PeerId("12D3KooWStranger")
        lookup = Lookup(Record("ait:cap:m", stranger, {"v": 3}, ("/ip4/192.0.2.1/tcp/1",)))
        with sources.added("lookup", lookup):
            assert lookup.said == {"ait:cap:m": {"v": 2}}
            found = await directory.find("ait:cap:m")
            assert {r.peer: r.value["v"] for r in found} == {a.id: 1, b.id: 2, stranger: 3}
            directory.withdraw("ait:cap:m")
            assert lookup.said == {}
        assert {r.peer for r in await directory.find("ait:cap:m")} == {a.id}
