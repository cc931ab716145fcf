"""Daemons whose network comes, goes and changes: how soon their peers are back.

With default settings, so that a keepalive alone would take 20 s and a backoff up to a minute.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aitorrentd.errors import AitorrentError
from tests.support.nat.daemons import daemon_at, peers
from tests.support.nat.lab import Host
from tests.support.nat.namespaces import CAN_MAKE, REASON, socket_in
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.transport.namespaces import ip, machines

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]
BACK_S = 10.0
APART = {"discovery": {"enabled": False}}


@pytest.fixture
def two() -> Iterator[tuple[Host, Host]]:
    """Two machines on a network, 10.77.0.1 and .2."""
    with machines(2) as names:
        for name in names:
            ip("-n", name, "link", "set", "lo", "up")
        one, other = names
        yield Host(one, "10.77.0.1"), Host(other, "10.77.0.2")


def bootstrap(*places: str) -> dict[str, Any]:
    return {"plugins": {**APART, "transport": {"bootstrap": list(places)}}}


async def seconds_until_answered(
    daemon: Daemon, figures: dict[str, str], what: str, within_s: float = BACK_S
) -> None:
    """Waits until the daemon's only peer answers a ping; notes the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def answered() -> bool:
        rows = await peers(daemon)
        if not rows:
            return False
        try:
            await daemon.call("transport.ping", {"peer": rows[0]["id"]}, timeout_s=2)
        except AitorrentError:
            return False
        return True

    await wait_for(answered, within_s, every_s=0.05)
    figures[f"peers back after {what}"] = f"{loop.time() - began:.1f} s"


async def test_network_that_comes_after_the_daemon(
    two: tuple[Host, Host], daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    late, hub = two
    ip("-n", late.namespace, "link", "set", "e0", "down")
    ip("-n", late.namespace, "addr", "flush", "dev", "e0")
    await daemon_at(daemon_factory, hub, {"plugins": APART})
    daemon = await daemon_at(daemon_factory, late, bootstrap("10.77.0.2:8468"))
    await asyncio.sleep(20)  # by now attempts are far apart
    assert await peers(daemon) == []
    ip("-n", late.namespace, "link", "set", "e0", "up")
    ip("-n", late.namespace, "addr", "add", "10.77.0.1/24", "dev", "e0")
    await seconds_until_answered(daemon, figures, "the network came up", 4)


async def test_link_that_was_down_for_long_and_for_a_moment(
    two: tuple[Host, Host], daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    here, hub = two
    await daemon_at(daemon_factory, hub, {"plugins": APART})
    daemon = await daemon_at(daemon_factory, here, bootstrap("10.77.0.2:8468"))
    await wait_for(lambda: peers(daemon), 20, every_s=0.1)
    for down_s in (6, 40):
        ip("-n", here.namespace, "link", "set", "e0", "down")
        await asyncio.sleep(down_s)
        ip("-n", here.namespace, "link", "set", "e0", "up")
        await seconds_until_answered(daemon, figures, f"{down_s} s without a link")


async def test_address_that_changes(
    two: tuple[Host, Host], daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    here, hub = two
    far = await daemon_at(daemon_factory, hub, {"plugins": APART})
    await daemon_at(daemon_factory, here, bootstrap("10.77.0.2:8468"))
    await wait_for(lambda: peers(far), 20, every_s=0.1)
    began = asyncio.get_running_loop().time()
    ip("-n", here.namespace, "addr", "del", "10.77.0.1/24", "dev", "e0")
    ip("-n", here.namespace, "addr", "add", "10.77.0.8/24", "dev", "e0")

    async def from_new() -> bool:
        return [row["address"].split("/")[2] for row in await peers(far)] == ["10.77.0.8"]

    await wait_for(from_new, BACK_S, every_s=0.05)
    took_s = asyncio.get_running_loop().time() - began
    figures["peers back after another address"] = f"{took_s:.1f} s"


async def test_another_address_is_announced_at_once(
    two: tuple[Host, Host], daemon_factory: DaemonFactory
) -> None:
    here, _ = two
    daemon = await daemon_at(daemon_factory, here, {"plugins": APART})
    await asyncio.sleep(6)  # past the looks of the start
    ip("-n", here.namespace, "addr", "add", "10.99.0.9/24", "dev", "e0")

    def told() -> bool:
        return any("own addresses" in e and "10.99.0.9" in e for e in daemon.log().splitlines())

    await wait_for(told, 2.5)


async def test_ipv6_only_network_that_was_down(
    two: tuple[Host, Host], daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    here, hub = two
    for i, host in enumerate(two, 1):
        ip("-n", host.namespace, "addr", "flush", "dev", "e0", "scope", "global")
        ip("-n", host.namespace, "addr", "add", f"fd77::{i}/64", "dev", "e0", "nodad")
    await daemon_at(daemon_factory, hub, {"plugins": APART})
    daemon = await daemon_at(daemon_factory, here, bootstrap("[fd77::2]:8468"))
    await wait_for(lambda: peers(daemon), 20, every_s=0.1)
    ip("-n", here.namespace, "link", "set", "e0", "down")

    async def lost() -> bool:
        return not await peers(daemon)

    await wait_for(lost, BACK_S, every_s=0.2)  # the kernel removes IPv6 addresses with the link
    ip("-n", here.namespace, "link", "set", "e0", "up")
    ip("-n", here.namespace, "addr", "add", "fd77::1/64", "dev", "e0")
    await seconds_until_answered(daemon, figures, "an IPv6-only link was down")


@contextmanager
def name_server(host: Host, address: str) -> Iterator[None]:
    """A name server at 127.0.0.1 of a host: every name has one IPv4 address."""
    sock = socket_in(host.namespace, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 53))

    def serve() -> None:
        while True:
            query, client = sock.recvfrom(512)
            if not query:
                return
            question = query[12 : query.index(0, 12) + 5]
            is_a = question[-4:-2] == b"\0\1"
            head = query[:2] + struct.pack("!HHHHH", 0x8180, 1, is_a, 0, 0)
            answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address)
            sock.sendto(head + question + answer * is_a, client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with socket_in(host.namespace, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", ("127.0.0.1", 53))
        thread.join()
        sock.close()


async def test_name_server_that_comes_after_the_daemon(
    two: tuple[Host, Host], daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    here, hub = two
    own = Path("/etc/netns", here.namespace)
    own.mkdir(parents=True)
    try:
        (own / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        await daemon_at(daemon_factory, hub, {"plugins": APART})
        daemon = await daemon_at(daemon_factory, here, bootstrap("hub.example:8468"))

        async def warned() -> bool:
            found = (await daemon.call("node.status"))["warnings"]
            return any("does not resolve" in warning["text"] for warning in found)

        await wait_for(warned, 40, every_s=0.2)
        await asyncio.sleep(15)
        with name_server(here, "10.77.0.2"):
            await seconds_until_answered(daemon, figures, "the name server came up")
    finally:
        (own / "resolv.conf").unlink()
        own.rmdir()
