"""Daemons behind every kind of NAT, and how each pair of them ends up connected."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aitorrentd.api import AitorrentError
from tests.support.nat.daemons import OFF, PORT, daemon_at, peer_id, route_to
from tests.support.nat.lab import Host, Lab
from tests.support.nodes import Daemon, DaemonFactory, merged, wait_for

KINDS: Final = ("public", "fullcone", "addrrestricted", "portrestricted", "symmetric")
CONES: Final = KINDS[1:4]
BIRTHDAY: Final = {"portrestricted", "symmetric"}
"The pair that connects by guessing ports, which may miss and is tried again after a minute."
BIRTHDAY_S: Final = 130.0
# What other plugins connect by themselves would hide what is tried here.
ALONE: Final[Mapping[str, Any]] = {
    "plugins": {
        "shards": OFF,
        "discovery": OFF,
        "dht": OFF,
        "openai": OFF,
    }
}


def expected(a: str, b: str) -> str:
    """The route on which a node of kind `a` that dials one of kind `b` ends up."""
    if "public" in (a, b):
        return "direct"  # if the other one dials, this is what the public one sees
    if {a, b} <= {*CONES}:
        return "punched"
    return "relay" if a == b == "symmetric" else "quic"


async def knows_its_nat(daemon: Daemon) -> bool:
    """Whether it found out what is in front of it, and can be reached somehow."""
    status = await daemon.call("nat.status")
    return status["behaviour"]["mapping"] != "unknown" and bool(await places(daemon))


async def places(daemon: Daemon) -> list[str]:
    """Addresses at which strangers can dial it: its own if they are public, or through a relay."""
    found: list[str] = (await daemon.call("transport.addresses"))["addresses"]
    return [each for each in found if "p2p-circuit" in each or each.startswith("/ip4/11.")]


async def internet(net: Lab, factory: DaemonFactory) -> list[Host]:
    """Three public daemons, which are relays and mirrors for others."""
    hosts = [net.public() for _ in range(3)]
    for i, host in enumerate(hosts):
        await daemon_at(factory, host, ALONE, bootstrap=hosts[0] if i else None)
    return hosts


async def joined(
    factory: DaemonFactory, host: Host, publics: list[Host], tree: Mapping[str, Any]
) -> Daemon:
    """A daemon that is connected to all public ones."""
    bootstrap = [f"{each.address}:{PORT}" for each in publics]
    return await daemon_at(
        factory, host, merged(tree, {"plugins": {"transport": {"bootstrap": bootstrap}}})
    )


class Took(NamedTuple):
    """Seconds from the dial."""

    usable_s: float
    "Until there was a channel, maybe through a relay."
    route_s: float
    "Until it had the route."


async def connected(a: Daemon, b: Daemon, b_id: str, route: str, within_s: float = 40.0) -> Took:
    """Connect `a` to `b`, and wait until the channel has the route."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for place in await places(b):
        try:
            await a.call("transport.connect", {"address": place})
            break
        except AitorrentError:
            continue
    else:
        raise AssertionError(f"not connected at {await places(b)}")
    usable_s = loop.time() - began

    async def has_route() -> bool:
        return await route_to(a, b_id) == route

    await wait_for(has_route, within_s, every_s=0.02)
    return Took(usable_s, loop.time() - began)


async def disconnected(a: Daemon, b: Daemon) -> None:
    """End the channel between two daemons."""
    for node, peer in ((a, await peer_id(b)), (b, await peer_id(a))):
        try:
            await node.call("transport.disconnect", {"peer": peer})
        except AitorrentError:
            continue  # the other side was faster
