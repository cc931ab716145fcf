"""Seeds: each address of a name is a node of its own, asked again while there are no peers."""

from __future__ import annotations

import asyncio
import random
import socket
from types import SimpleNamespace
from typing import Any, cast

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest
from pydantic import ValidationError

from aitorrent_discovery.config import DiscoveryConfig
from aitorrent_discovery.dnsaddr import txt_records
from aitorrent_discovery.seeds import CAP_S, DIALLED, Seeds
from aitorrentd.api import Unavailable
from tests.support.clocks import LoopClock
from tests.support.discovery.records import peer

SEED = "seeds.example:8468"


class Net:
    """A name server and a transport; `answering` are the addresses at which nodes listen."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.answering: set[str] = set()
        self.lookups: list[float] = []
        self.dialled: list[str] = []
        self.connected: list[str] = []
        self.node_id = peer("me")

    async def resolve(self, host: str, **options: Any) -> list[tuple[int, str]]:
        self.lookups.append(asyncio.get_running_loop().time())
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) for ip in self.addresses]

    def peers(self) -> list[str]:
        return self.connected

    async def connect(self, address: str) -> None:
        self.dialled.append(address)
        if address.split("/")[2] not in self.answering:
            raise Unavailable("nobody answers")
        self.connected.append(address)

    async def txt(self, name: str) -> list[str]:
        self.lookups.append(asyncio.get_running_loop().time())
        return self.addresses


def seeds(net: Net, seed: str = SEED) -> Seeds:
    log = SimpleNamespace(warning=lambda *words: None)
    ctx = SimpleNamespace(random=random.Random(1), clock=LoopClock(), log=log)
    return Seeds(cast(Any, ctx), cast(Any, net), (seed,), cast(Any, net), net.txt)


async def run(found: Seeds, seconds: float) -> None:
    task = asyncio.ensure_future(found.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.jump_clock
async def test_a_few_of_all_addresses_are_dialled_each_as_a_node_of_its_own() -> None:
    net = Net(*(f"203.0.113.{i}" for i in range(20)), "2001:db8::1")
    net.answering = set(net.addresses)
    await run(seeds(net), 300)
    assert len(net.dialled) == len(set(net.dialled)) == DIALLED
    assert len(net.lookups) == 1, "a node with peers asks no more"


@pytest.mark.jump_clock
async def test_kubo_8979_a_name_with_ip6_addresses_only_is_dialled() -> None:
    net = Net("2001:db8::1", "2001:db8::2")
    net.answering = set(net.addresses)
    await run(seeds(net), 300)
    assert sorted(net.connected) == [f"/ip6/2001:db8::{i}/tcp/8468" for i in (1, 2)]


@pytest.mark.jump_clock
async def test_each_address_in_the_txt_records_of_a_dnsaddr_name_is_a_node() -> None:
    them = peer("them")
    listed = [f"dnsaddr=/ip4/203.0.113.{i}/tcp/8468/p2p/{them}" for i in range(2)]
    others = [
        "v=spf1 -all",
        "dnsaddr=",
        "dnsaddr=/ip4/203.0.113.9/udp/4001/quic-v1/p2p/12D3KooW",
        f"dnsaddr=/ip4/203.0.113.8/tcp/8468/p2p/{peer('me')}",
        "dnsaddr=/ip4/203.0.113.7/tcp/8468" + "x" * 600,
    ]
    net = Net(*others, *listed)
    net.answering = {"203.0.113.0", "203.0.113.1"}
    await run(seeds(net, "/dnsaddr/seeds.example"), 300)
    assert sorted(net.dialled) == [text.removeprefix("dnsaddr=") for text in listed]


async def test_txt_records_are_asked_of_the_systems_name_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.DatagramTransport, transport)

        def datagram_received(self, data: bytes, addr: Any) -> None:
            query = dns.message.from_wire(data)
            reply = dns.message.make_response(query)
            asked = query.question[0]
            if str(asked.name) == "_dnsaddr.seeds.example.":
                text = ("dnsaddr=/ip4/203.0.113.1", "/tcp/8468")
                reply.answer.append(
                    dns.rrset.from_text(asked.name, 60, "IN", "TXT", *map(repr, text))
                )
            else:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            self.transport.sendto(reply.to_wire(), addr)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Server, ("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    try:
        assert len(await txt_records("seeds.example")) == 2
        with pytest.raises(Unavailable, match="does not exist"):
            await txt_records("nobody.example")
    finally:
        transport.close()


@pytest.mark.jump_clock
async def test_name_that_does_not_resolve_is_asked_again_with_growing_waits() -> None:
    net = Net()
    found = seeds(net)
    await run(found, 3600)
    waits = [b - a for a, b in zip(net.lookups, net.lookups[1:], strict=False)]
    assert 8 <= len(waits) <= 30
    assert waits[0] <= 5 < max(waits) <= CAP_S
    assert "seeds.example does not resolve" in found.problems[SEED]


@pytest.mark.jump_clock
async def test_seed_that_comes_back_is_used_and_its_problem_forgotten() -> None:
    net = Net("203.0.113.1", "203.0.113.2")
    found = seeds(net)
    await run(found, 60)
    assert "nobody answers" in found.problems[SEED]
    net.answering = {"203.0.113.2"}
    await run(found, 60)
    assert found.problems == {}
    assert net.connected == ["/ip4/203.0.113.2/tcp/8468"]


def test_seed_is_a_name_with_a_port() -> None:
    assert DiscoveryConfig(seeds=SEED).seeds == (SEED,)
    listed = "/dnsaddr/seeds.example.org"
    assert DiscoveryConfig(seeds=(listed, SEED)).seeds == (listed, SEED)
    for wrong in (
        "/dnsaddr/",
        "/dnsaddr/a b",
        "/dnsaddr/a..b",
        "203.0.113.1:8468",
        "seeds.example",
        "/dns/a/tcp/1/udp",
    ):
        with pytest.raises(ValidationError, match="address|NAME:PORT|/dnsaddr/NAME|port"):
            DiscoveryConfig(seeds=(wrong,))
