"""What a daemon with the default configuration sends, and to whom: the router and the link only."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.discovery.lan_machines import captured
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nat.upnp_router import upnp_router
from tests.support.nodes import DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE or not shutil.which("miniupnpd"), reason=REASON),
    pytest.mark.timeout(300),
]
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
DEFAULT = "{}\n"
"A configuration file that sets nothing."
MDNS = (UDP, "224.0.0.251", 5353)
SSDP = (UDP, "239.255.255.250", 1900)
QUIET_S = 75.0
"More than the period of gossip, of port mapping, and of each retry of a node without peers."


def documented(gateway: str, *, http: int = 5000) -> set[tuple[int, str, int]]:
    """What docs/nat.md and docs/discovery.md say is sent without being configured."""
    return {MDNS, SSDP, (UDP, gateway, 5351), (UDP, gateway, 1900), (TCP, gateway, http)}


async def test_default_daemon_sends_to_its_router_and_the_link_only(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    with upnp_router(host.nat, tmp_path) as router:
        async with (
            captured(host.namespace) as from_host,
            captured(host.nat.namespace, "wan") as to_internet,
        ):
            daemon = await daemon_factory(DEFAULT, loopback=False, namespace=host.namespace)
            await wait_for(lambda: router.forwarded().count("dnat") == 3, 60, every_s=0.5)
            await asyncio.sleep(QUIET_S)
            await daemon.stop()
    assert MDNS in from_host.packets
    assert any(port == 5351 for _, _, port in from_host.packets)
    assert set(from_host.packets) <= documented(host.nat.inside)
    assert to_internet.packets == []


async def test_default_daemon_without_a_router_that_forwards_asks_nobody_else(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    host = nat_lab.place("symmetric")
    assert host.nat is not None
    async with (
        captured(host.namespace) as from_host,
        captured(host.nat.namespace, "wan") as to_internet,
    ):
        daemon = await daemon_factory(DEFAULT, loopback=False, namespace=host.namespace)

        ways = {SSDP, MDNS, (UDP, host.nat.inside, 5351)}
        await wait_for(lambda: ways <= set(from_host.packets), 60, every_s=0.5)
        await asyncio.sleep(QUIET_S)
        await daemon.stop()
    assert set(from_host.packets) <= documented(host.nat.inside)
    assert to_internet.packets == []
