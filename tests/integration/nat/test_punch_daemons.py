"""Daemons behind NATs connect directly once they are connected through a relay."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from aitorrent_nat.reach.part import RETRY_S
from aitorrentd.api import AitorrentError
from tests.support.nat.daemons import PORT, daemon_at, peer_id, peers
from tests.support.nat.lab import Host, Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import Daemon, DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]


class Net:
    """Three public daemons, and two behind NATs whose kinds are known."""

    def __init__(self, relay: Host, relay_id: str, one: Daemon, two: Daemon) -> None:
        self.relay, self.relay_id = relay, relay_id
        self.one, self.two = one, two
        self.two_id = ""

    async def connect(self) -> None:
        """Connect the two through the relay."""
        self.two_id = await peer_id(self.two)
        place = f"/ip4/{self.relay.address}/tcp/{PORT}/p2p/{self.relay_id}"
        address = f"{place}/p2p-circuit/p2p/{self.two_id}"

        async def connected() -> bool:
            try:
                await self.one.call("transport.connect", {"address": address})
            except AitorrentError:
                return False  # the other has no reservation yet
            return True

        await wait_for(connected, 30, every_s=0.5)

    async def route(self) -> str:
        """How they are connected now."""
        rows = [row for row in await peers(self.one) if row["id"] == self.two_id]
        return str(rows[0]["route"]) if rows else ""


async def nat_known(daemon: Daemon) -> bool:
    status = await daemon.call("nat.status")
    return bool(status["behaviour"]["mapping"] != "unknown")


async def net(nat_lab: Lab, factory: DaemonFactory, *places: Host, **config: Any) -> Net:
    publics = [nat_lab.public() for _ in range(3)]
    relay = await daemon_at(factory, publics[0])
    for host in publics[1:]:
        await daemon_at(factory, host, bootstrap=publics[0])
    tree = {"plugins": {"nat": config}} if config else None
    one, two = [await daemon_at(factory, each, tree, bootstrap=publics[0]) for each in places]
    for each in (one, two):
        await wait_for(partial(nat_known, each), 2 * RETRY_S, every_s=0.3)
    return Net(publics[0], await peer_id(relay), one, two)


@pytest.mark.parametrize(
    ("a", "b", "route"),
    [
        ("portrestricted", "portrestricted", "punched"),
        ("fullcone", "symmetric", "quic"),
        ("portrestricted", "symmetric", "quic"),
    ],
)
async def test_a_relayed_channel_becomes_direct(
    nat_lab: Lab,
    daemon_factory: DaemonFactory,
    figures: dict[str, str],
    a: str,
    b: str,
    route: str,
) -> None:
    both = await net(nat_lab, daemon_factory, nat_lab.place(a), nat_lab.place(b))
    await both.connect()
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def is_direct() -> bool:
        return await both.route() not in ("", "relay")

    # If an attempt fails by chance, the next session follows after a minute.
    await wait_for(is_direct, 100, every_s=0.05)
    figures[f"from relayed to direct, {a} and {b}"] = f"{loop.time() - began:.2f} s"
    assert await both.route() == route
    await asyncio.sleep(1)  # and stays, also once the session is over
    assert await both.route() == route


async def test_without_hole_punching_even_cone_nats_stay_relayed(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    places = nat_lab.place("portrestricted"), nat_lab.place("fullcone")
    both = await net(nat_lab, daemon_factory, *places, punch=False)
    await both.connect()
    await asyncio.sleep(6)  # with it, they are direct within five
    assert await both.route() == "relay"
    status = await both.one.call("nat.status")
    assert status["parts"]["hole punching"].startswith("off")


async def test_two_symmetric_nats_stay_relayed(nat_lab: Lab, daemon_factory: DaemonFactory) -> None:
    places = nat_lab.place("symmetric"), nat_lab.place("symmetric")
    both = await net(nat_lab, daemon_factory, *places)
    await both.connect()

    async def has_tried() -> bool:
        status = await both.one.call("nat.status")
        return "failed attempts: 1" in status["parts"]["hole punching"]

    await wait_for(has_tried, 15, every_s=0.3)
    assert await both.route() == "relay"
