"""What the kernel tells of the network, and what of it is a change."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aitorrent_transport.machine import watching
from aitorrent_transport.machine.netlink import GROUPS, NetworkState
from aitorrent_transport.machine.watching import ClockJumps, NetworkWatch
from aitorrentd.api import NetworkChanged
from tests.support.nat.lab import lab
from tests.support.nat.namespaces import CAN_MAKE, REASON, ip, socket_in
from tests.support.nodes import wait_for
from tests.support.transport.transport_nodes import TestNode, node


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + bytes(-len(body) % 4)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def address(text: str, *, kind: int = 20, flags: int = 0) -> bytes:
    head = struct.pack("=BBBBi", socket.AF_INET, 24, flags, 0, 7)
    return message(kind, head + attribute(2, socket.inet_aton(text)))


def link(flags: int, kind: int = 16) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, 7, flags, 0))


def route(*, bits: int = 0, table: int = 254, kind: int = 24, gateway: str = "10.0.0.1") -> bytes:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, bits, 0, 0, table, 0, 0, 1, 0)
    return message(kind, head + attribute(5, socket.inet_aton(gateway)))


def done() -> bytes:
    return message(3, bytes(4))


def settled() -> NetworkState:
    """A state to which the kernel has listed everything: nothing."""
    state = NetworkState()
    for _ in range(3):
        assert state.take(done()) == (False, True)
    return state


def test_only_what_is_new_is_a_change() -> None:
    state = settled()
    for datagram in (address("10.0.0.2"), link(0x43), route()):
        assert state.take(datagram) == (True, False)
        assert state.take(datagram) == (False, False), "the kernel repeats itself"
    assert state.take(link(0x1)) == (True, False), "the cable was pulled"
    assert state.take(link(0x1 | 0x1000)) == (False, False), "a flag that moves no packet"
    assert state.take(address("10.0.0.2", kind=21)) == (True, False)
    assert state.take(address("10.0.0.2", kind=21)) == (False, False)
    assert state.take(route(kind=25)) == (True, False)


def test_address_counts_once_no_other_machine_has_it() -> None:
    state = settled()
    assert state.take(address("10.0.0.2", flags=0x40)) == (False, False)
    assert state.take(address("10.0.0.2")) == (True, False)


def test_only_default_routes_of_the_main_table_count() -> None:
    state = settled()
    assert state.take(route(bits=24)) == (False, False)
    assert state.take(route(table=255)) == (False, False)


def test_what_was_there_before_is_no_change() -> None:
    state = NetworkState()
    assert len(state.requests) == 3
    assert state.take(link(0x43) + done()) == (False, True)
    assert state.take(address("10.0.0.2") + done()) == (False, True)
    assert state.take(route() + done()) == (False, True)
    assert state.take(link(0x43)) == (False, False)
    assert state.take(link(0x42)) == (True, False)


def test_damaged_messages_are_ignored() -> None:
    state = settled()
    whole = address("10.0.0.2")
    for cut in range(len(whole)):
        assert state.take(whole[:cut]) == (False, False)
    draw = random.Random(7)
    for _ in range(2000):
        state.take(draw.randbytes(draw.randrange(200)))
        body = draw.randbytes(draw.randrange(40))
        state.take(message(draw.choice((16, 17, 20, 21, 24, 25)), body))


@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
@pytest.mark.root
@pytest.mark.slow
def test_kernel_speaks_as_understood() -> None:
    with lab() as net:
        host = net.public()
        state = NetworkState()
        with netlink_socket(host.namespace) as sock:

            def changed() -> bool:
                found = False
                try:
                    while True:
                        more, ended = state.take(sock.recv(65_536))
                        found |= more
                        if ended and state.requests:
                            sock.send(state.requests.pop())
                except TimeoutError:
                    return found

            sock.send(state.requests.pop())
            assert not changed() and not state.requests
            for command in (
                ("link", "set", "e0", "down"),
                ("link", "set", "e0", "up"),
                ("route", "add", "default", "via", net.GATEWAY, "dev", "e0", "onlink"),
                ("addr", "add", "10.0.0.7/24", "dev", "e0"),
                ("addr", "del", "10.0.0.7/24", "dev", "e0"),
            ):
                ip("-n", host.namespace, *command)
                assert changed(), command
                # A link that comes up may say so in several steps.
                assert any(not changed() for _ in range(5)), command
            ip("-n", host.namespace, "route", "add", "10.9.0.0/16", "dev", "e0")
            assert not changed(), "no default route"


def netlink_socket(namespace: str) -> socket.socket:
    sock = socket_in(namespace, socket.SOCK_RAW, socket.AF_NETLINK)
    sock.bind((0, GROUPS))
    sock.settimeout(0.3)
    return sock


def test_clocks_that_move_apart_tell_of_a_suspend_or_a_new_time() -> None:
    jumps = ClockJumps()
    assert not jumps.look(100, 500, 1e9)
    assert not jumps.look(102, 502, 1e9 + 2)
    assert not jumps.look(104, 504, 1e9 + 24), "an adjustment of 20 s"
    assert jumps.look(106, 606, 1e9 + 126), "100 s asleep"
    assert not jumps.look(108, 608, 1e9 + 128)
    assert jumps.look(110, 610, 1e9 + 200), "a frozen virtual machine"
    assert jumps.look(112, 612, 1e9), "set back"


class Clocks:
    """The clocks that `watching` reads, which a test moves on."""

    CLOCK_BOOTTIME = 7

    def __init__(self) -> None:
        self.slept_s = 0.0

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def clock_gettime(self, which: int) -> float:
        return self.monotonic() + self.slept_s

    def time(self) -> float:
        return self.monotonic() + self.slept_s


async def test_waking_from_suspend_abandons_the_channels_whose_peers_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(watching, "time", clocks)
    monkeypatch.setattr(watching, "LOOK_S", 0.05)
    monkeypatch.setattr("aitorrent_transport.peers.revalidating.ANSWER_S", 1.0)
    async with (
        node(tmp_path, "sleeper", keepalive_s=300) as sleeper,
        node(tmp_path, "lively", keepalive_s=300) as lively,
        node(tmp_path, "mute", keepalive_s=300) as mute,
    ):
        for other in (lively, mute):
            await sleeper.transport.dial_once(other.address)
        silence(mute)
        await asyncio.sleep(0.5)  # nothing tells that it is silent
        assert len(sleeper.transport.peers()) == 2
        clocks.slept_s += 3600
        await wait_for(lambda: sleeper.count(NetworkChanged), 5)
        await wait_for(lambda: [p.id for p in sleeper.transport.peers()] == [lively.id], 5)


def silence(other: TestNode) -> None:
    """Let a node neither read nor answer, as if its machine were gone."""
    for peer in other.transport.table:
        for channel in peer.channels:
            channel.link.pause_reading()


async def test_without_netlink_the_addresses_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoNetlink:
        AF_NETLINK = SOCK_RAW = SOCK_NONBLOCK = NETLINK_ROUTE = 0

        def socket(self, *_: int) -> None:
            raise PermissionError(1, "Operation not permitted")

    own = ["10.0.0.2"]
    monkeypatch.setattr(watching, "socket", NoNetlink())
    monkeypatch.setattr(watching, "_addresses", lambda: list(own))
    for name in ("LOOK_S", "POLL_S", "SETTLE_S"):
        monkeypatch.setattr(watching, name, 0.02)
    published: list[Any] = []
    told: list[str] = []
    ctx: Any = SimpleNamespace(
        log=SimpleNamespace(info=lambda *a: None, debug=lambda *a: None), publish=published.append
    )
    watch = NetworkWatch(ctx)
    watch.on_change = told.append
    running = asyncio.ensure_future(watch.run())
    try:
        await asyncio.sleep(0.1)
        assert not published
        own.append("10.0.0.3")
        await wait_for(lambda: told, 5)
        assert published == [NetworkChanged("addresses")]
    finally:
        running.cancel()
        await asyncio.wait({running})
