"""What other plugins add to the transport: ways to reach a peer, and sources of the directory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.api import (
    DIALERS,
    DIRECTORY,
    DIRECTORY_SOURCES,
    PeerId,
    Record,
    TimedOut,
    Unavailable,
)
from aitorrentd.api.network.addresses import Address
from aitorrentd.api.network.dialers import MakeProtocol
from tests.support.nodes import wait_for
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
