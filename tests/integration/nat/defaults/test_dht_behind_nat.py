"""Nodes of the DHT behind NAT boxes: whether others may ask them, and on which port."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from aitorrent_nat.reach.part import RETRY_S
from tests.support.nat.daemons import PORT, daemon_at, village
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nat.upnp_router import upnp_router
from tests.support.nodes import Daemon, DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE or not shutil.which("miniupnpd"), reason=REASON),
    pytest.mark.timeout(300),
]


async def is_client(daemon: Daemon) -> bool:
    return bool((await daemon.call("dht.stats"))["mode"] == "client")


async def nodes(daemon: Daemon) -> int:
    return int((await daemon.call("dht.stats"))["nodes"])


async def filtering(daemon: Daemon) -> str:
    found = str((await daemon.call("nat.status"))["behaviour"]["filtering"])
    return "" if found == "unknown" else found


async def test_node_whose_nat_keeps_strangers_out_is_a_client_within_a_minute(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    places = [f"{host.address}:{PORT}" for host in await village(daemon_factory, nat_lab)]
    config = {"plugins": {"transport": {"bootstrap": places}}}
    opened, closed = [
        await daemon_at(daemon_factory, nat_lab.place(kind), config)
        for kind in ("fullcone", "portrestricted")
    ]
    for daemon in (opened, closed):
        await wait_for(lambda: filtering(daemon), 2 * RETRY_S, every_s=0.5)  # noqa: B023
        await wait_for(lambda: nodes(daemon), 20, every_s=0.2)  # noqa: B023
    await wait_for(lambda: is_client(closed), 2 * RETRY_S, every_s=0.5)
    assert not await is_client(opened)


async def test_router_forwards_the_port_that_the_dht_is_configured_to_use(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    host = nat_lab.place("portrestricted")
    assert host.nat is not None
    with upnp_router(host.nat, tmp_path) as router:
        await daemon_at(daemon_factory, host, {"plugins": {"dht": {"port": 9000}}})
        await wait_for(lambda: ":9000" in router.forwarded(), 2 * RETRY_S, every_s=0.5)
        forwarded = re.findall(r"(0x6|0x11) .* dnat ip to [\d.]+:(\d+)", router.forwarded())
        assert sorted(forwarded) == [("0x11", "8469"), ("0x11", "9000"), ("0x6", "8468")]
