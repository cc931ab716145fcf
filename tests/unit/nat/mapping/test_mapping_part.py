"""When the router is asked for ports, what is announced, and what people are told."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from aitorrent_nat.mapping.gateway import Gateway
from aitorrent_nat.mapping.keeping import Forwarding
from aitorrent_nat.mapping.part import WATCH_S, MappingPart
from aitorrent_nat.mapping.pinholes import Pinholes
from aitorrent_nat.mapping.routers import Lease, Router, Want
from aitorrentd.api import Denied, Unavailable
from aitorrentd.api.tasks import Tasks

HOME = Gateway("192.168.1.1", "192.168.1.2")
AWAY = Gateway("10.0.0.1", "10.0.0.7")
TCP, UDP = Want("tcp", 8468), Want("udp", 8468)
UDP_PORTS = (8468, 8469)


class FakeRouter:
    """A router in memory; what it forwards is in `forwarded`."""

    def __init__(self, name: str = "fake", host: str = "81.2.69.142") -> None:
        self.name = name
        self.host = host
        self.forwarded: dict[Want, int] = {}
        self.taken: set[int] = set()
        self.error: Exception | None = None

    async def map(self, want: Want, external_port: int) -> Lease:
        if self.error is not None:
            raise self.error
        port = external_port + 1000 * (external_port in self.taken)
        self.forwarded[want] = port
        return Lease(want, self.host, port, 3600)

    async def unmap(self, lease: Lease) -> None:
        if self.error is not None:
            raise self.error
        del self.forwarded[lease.want]


def way(router: FakeRouter) -> Callable[[Gateway], Awaitable[Router]]:
    async def found(gateway: Gateway) -> Router:
        return router

    return found


async def test_protocols_are_tried_in_order_until_one_works() -> None:
    first, second = FakeRouter("first"), FakeRouter("second")
    first.error = Denied("it is not allowed")
    forwarding = Forwarding([way(first), way(second)])
    assert await forwarding.ensure(HOME, [TCP, UDP])
    assert forwarding.protocol == "second"
    assert set(second.forwarded) == {TCP, UDP}
    # The first is not asked again as long as the second works.
    first.error = None
    assert await forwarding.ensure(HOME, [TCP])
    assert (set(first.forwarded), set(second.forwarded)) == (set(), {TCP})


async def test_refusals_are_told_and_silence_is_not() -> None:
    first, second = FakeRouter("PCP"), FakeRouter("UPnP")
    first.error, second.error = Denied("it is not allowed"), Unavailable("silent")
    forwarding = Forwarding([way(first), way(second)])
    assert not await forwarding.ensure(HOME, [TCP])
    assert forwarding.problem == "the router refuses: it is not allowed (PCP)"
    first.error = Unavailable("silent")
    assert not await forwarding.ensure(HOME, [TCP])
    assert forwarding.problem == "the router does not offer to forward ports"


async def test_partly_granted_ports_are_not_announced() -> None:
    router = FakeRouter()

    async def map_tcp_only(want: Want, external_port: int) -> Lease:
        if want.protocol == "udp":
            raise Denied("it does not forward this protocol")
        return Lease(want, router.host, external_port, 3600)

    router.map = map_tcp_only  # type: ignore[method-assign]
    forwarding = Forwarding([way(router)])
    assert not await forwarding.ensure(HOME, [TCP, UDP])
    assert not forwarding.leases


async def test_router_of_another_network_starts_from_nothing() -> None:
    router = FakeRouter()
    router.taken = {8468}
    forwarding = Forwarding([way(router)])
    await forwarding.ensure(HOME, [TCP])
    assert forwarding.leases[TCP].external_port == 9468
    router.taken = set()
    await forwarding.ensure(HOME, [TCP])
    assert forwarding.leases[TCP].external_port == 9468, "peers were told of it"
    await forwarding.ensure(AWAY, [TCP])
    assert forwarding.leases[TCP].external_port == 8468


async def test_ports_are_given_back_even_if_the_router_is_gone() -> None:
    router = FakeRouter()
    forwarding = Forwarding([way(router)])
    await forwarding.ensure(HOME, [TCP, UDP])
    await forwarding.release()
    assert not router.forwarded and not forwarding.leases
    await forwarding.ensure(HOME, [TCP])
    router.error = Unavailable("gone")
    await forwarding.release()
    assert not forwarding.leases


def part(
    router: FakeRouter,
    *,
    gateway: Gateway | None = HOME,
    bound: Sequence[tuple[str, int]] = (("0.0.0.0", 8468), ("::", 8468)),
    seen: str = "",
    udp_ports: Sequence[int] = UDP_PORTS,
) -> MappingPart:
    view = SimpleNamespace(outbound=True, host="11.1.0.2", observed=seen)
    transport: Any = SimpleNamespace(
        bound=bound, peers=lambda: [view] if seen else [], addresses=list
    )
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    log = SimpleNamespace(log=lambda *a: None)
    ctx: Any = SimpleNamespace(log=log, random=random.Random(1), clock=clock)
    tasks: Any = Tasks(logging.getLogger("test"))
    return MappingPart(
        ctx,
        tasks,
        transport,
        lambda: udp_ports,
        forwarding=Forwarding([way(router)]),
        gateway=lambda: gateway,
    )


async def test_peer_port_and_udp_ports_are_forwarded_and_the_peer_port_is_announced() -> None:
    router = FakeRouter()
    router.taken = {8468}
    it = part(router)
    assert await it._look()
    assert set(map(str, router.forwarded)) == {"8468/tcp", "8468/udp", "8469/udp"}
    assert [each.location for each in it.addresses()] == ["/ip4/81.2.69.142/tcp/9468"]
    assert it.state() == (
        "81.2.69.142:9468/tcp (here 8468), 81.2.69.142:9468/udp (here 8468),"
        " 81.2.69.142:8469/udp by fake"
    )
    assert not list(it.warnings())


@pytest.mark.jump_clock
async def test_port_of_a_plugin_that_starts_later_is_forwarded_within_seconds() -> None:
    router = FakeRouter()
    ports = [8469]
    it = part(router, udp_ports=ports)
    keeping = asyncio.create_task(it._keep())
    await asyncio.sleep(1)
    assert set(map(str, router.forwarded)) == {"8468/tcp", "8469/udp"}
    ports.append(9000)
    await asyncio.sleep(WATCH_S)
    assert set(map(str, router.forwarded)) == {"8468/tcp", "8469/udp", "9000/udp"}
    ports.remove(9000)
    await asyncio.sleep(WATCH_S)
    assert set(map(str, router.forwarded)) == {"8468/tcp", "8469/udp"}
    keeping.cancel()
    await asyncio.wait({keeping})


@pytest.mark.parametrize(
    ("host", "seen", "trouble"),
    [
        ("100.64.3.4", "", "the router itself is behind a NAT (100.64.3.4)"),
        ("192.168.9.4", "", "the router itself is behind a NAT (192.168.9.4)"),
        ("", "", "the router does not know its external address"),
        ("81.2.69.142", "81.2.69.160:4711", "peers see this node at 81.2.69.160"),
    ],
)
async def test_forwarding_that_helps_nobody_is_told(host: str, seen: str, trouble: str) -> None:
    it = part(FakeRouter(host=host), seen=seen)
    await it._look()
    assert trouble in it.state()
    (warning,) = it.warnings()
    assert (warning.code, warning.severity) == ("forwarding", "info")
    assert trouble in warning.text
    assert bool(it.addresses()) == bool(seen), "only a public address is announced"


async def test_right_external_address_is_no_trouble() -> None:
    it = part(FakeRouter(), seen="81.2.69.142:4711")
    await it._look()
    assert not list(it.warnings())


@pytest.mark.parametrize(
    ("gateway", "bound", "why"),
    [
        (None, [("0.0.0.0", 8468)], "no router"),
        (Gateway("81.2.69.1", "81.2.69.142"), [("0.0.0.0", 8468)], "a public address"),
        (HOME, [("127.0.0.1", 8468)], "does not listen where the router could reach it"),
        (HOME, [("10.9.0.1", 8468)], "does not listen where the router could reach it"),
        (HOME, [], "does not listen where the router could reach it"),
    ],
)
async def test_router_is_not_asked_where_that_is_of_no_use(
    gateway: Gateway | None, bound: Sequence[tuple[str, int]], why: str
) -> None:
    router = FakeRouter()
    it = part(router, gateway=gateway, bound=bound)
    assert await it._look()
    assert not router.forwarded and not it.addresses() and why in it.state()


async def test_ports_are_given_back_when_the_node_moves_to_a_public_address() -> None:
    router = FakeRouter()
    it = part(router)
    await it._look()
    it._gateway = lambda: Gateway("81.2.69.1", "81.2.69.142")
    await it._look()
    await asyncio.sleep(0)
    assert not router.forwarded and not it.addresses()


OWN6, OTHER6, LINK = "2a01:db8:1::2", "2a01:db8:9::2", "fe80::1%e0"


def pinholes(router: FakeRouter, told: list[str], bound: list[tuple[str, int]]) -> Pinholes:
    transport: Any = SimpleNamespace(
        bound=bound,
        addresses=lambda: [f"/ip{6 if ':' in host else 4}/{host}/tcp/8468" for host in told],
    )
    return Pinholes(
        transport,
        lambda: UDP_PORTS,
        forwarding=Forwarding([way(router)]),
        gateway=lambda own: Gateway(LINK, own),
    )


async def test_ports_are_opened_to_ip6_at_the_first_global_address_that_others_are_told() -> None:
    router = FakeRouter("PCP", OWN6)
    told = ["81.2.69.142", "fd00::2", OWN6, OTHER6]
    it = pinholes(router, told, [("0.0.0.0", 8468), ("::", 8468)])
    await it.look(0.0)
    assert it.wanted()[0] == Gateway(LINK, OWN6)
    assert it.state() == "open to IPv6: 8468/tcp, 8468/udp, 8469/udp by PCP"
    told.remove(OWN6)  # the provider gave another prefix
    router.forwarded.clear()
    await it.look(1.0)
    assert it.wanted()[0] == Gateway(LINK, OTHER6) and len(router.forwarded) == 3
    told.remove(OTHER6)
    await it.look(2.0)
    assert not router.forwarded and not it.state()


@pytest.mark.parametrize("bound", [[("0.0.0.0", 8468)], [("::1", 8468)], []])
async def test_nothing_is_opened_where_nothing_listens(bound: list[tuple[str, int]]) -> None:
    router = FakeRouter()
    it = pinholes(router, [OWN6], bound)
    await it.look(0.0)
    assert not router.forwarded and not it.state()


async def test_router_without_pcp_is_asked_again_after_a_quarter_of_an_hour() -> None:
    router = FakeRouter()
    router.error = Unavailable("no answer")
    it = pinholes(router, [OWN6], [("::", 8468)])
    await it.look(0.0)
    router.error = None
    await it.look(899.0)
    assert not router.forwarded
    await it.look(900.0)
    assert len(router.forwarded) == 3


def test_only_the_router_itself_is_asked_over_http() -> None:
    assert HOME.has_page("http://192.168.1.1:5000/desc.xml")
    for url in (
        "http://192.168.1.3:5000/desc.xml",
        "https://192.168.1.1/desc.xml",
        "file:///etc/passwd",
        "http://192.168.1.1@11.1.0.2/",
        "http://192.168.1.1.example/",
        "http://[::1]/",
        "http://192.168.1.1:99999/",
        "//192.168.1.1/",
        "",
    ):
        assert not HOME.has_page(url), url
