"""Which word a daemon finds for itself behind each kind of NAT, with the help of its peers only."""

from __future__ import annotations

from typing import Any

import pytest

from aitorrent_nat.reach.part import RETRY_S
from aitorrentd.api import Reach
from tests.support.nat.daemons import daemon_at, village
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON, nft
from tests.support.nat.rules import ruleset
from tests.support.nodes import Daemon, DaemonFactory, merged, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]

EI, AD, APD = "endpoint-independent", "address-dependent", "address-and-port-dependent"
PLAIN: dict[str, Any] = {"plugins": {"nat": {"upnp": False, "reservations": 0}}}


async def status(daemon: Daemon) -> dict[str, Any]:
    return await daemon.call("nat.status")


@pytest.mark.parametrize(
    ("kind", "reach", "mapping", "filtering"),
    [
        ("public", Reach.PUBLIC, "none", EI),
        ("fullcone", Reach.CONE, EI, EI),
        ("addrrestricted", Reach.CONE, EI, AD),
        ("portrestricted", Reach.CONE, EI, APD),
        ("symmetric", Reach.SYMMETRIC, APD, APD),
    ],
)
async def test_daemon_classifies_its_nat_with_peers_only(
    nat_lab: Lab,
    daemon_factory: DaemonFactory,
    kind: str,
    reach: Reach,
    mapping: str,
    filtering: str,
) -> None:
    hosts = await village(daemon_factory, nat_lab, PLAIN)
    host = nat_lab.place(kind)
    bootstrap = {"plugins": {"transport": {"bootstrap": [f"{h.address}:8468" for h in hosts]}}}
    daemon = await daemon_at(daemon_factory, host, merged(PLAIN, bootstrap))

    async def is_found() -> bool:
        now = await status(daemon)
        return (now["reach"], now["behaviour"]["filtering"]) == (reach, filtering)

    await wait_for(is_found, 2 * RETRY_S, every_s=0.5)
    now = await status(daemon)
    assert now["behaviour"]["mapping"] == mapping
    assert now["behaviour"]["external"] == host.public


async def test_daemon_that_peers_dialled_logs_that_it_is_public(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    host, other = nat_lab.public(), nat_lab.public()
    daemon = await daemon_at(daemon_factory, host, PLAIN)
    await daemon_at(daemon_factory, other, PLAIN, bootstrap=host)
    await wait_for(lambda: "nat: reachability: public (" in daemon.log(), 2 * RETRY_S, every_s=0.2)
    assert daemon.log().count("nat: reachability") == 1


async def test_word_follows_a_change_of_the_network(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    hosts = await village(daemon_factory, nat_lab, PLAIN)
    home = nat_lab.place("portrestricted")
    assert home.nat is not None
    bootstrap = {"plugins": {"transport": {"bootstrap": [f"{h.address}:8468" for h in hosts]}}}
    daemon = await daemon_at(daemon_factory, home, merged(PLAIN, bootstrap))

    async def is_behind_a_cone() -> bool:
        return str((await status(daemon))["reach"]) == Reach.CONE

    async def is_behind_a_symmetric_nat() -> bool:
        return str((await status(daemon))["reach"]) == Reach.SYMMETRIC

    await wait_for(is_behind_a_cone, 2 * RETRY_S, every_s=0.5)
    nft(home.nat.namespace, "flush ruleset\n" + ruleset("symmetric", home.nat.outside))
    home.nat.forget()
    home.down()
    home.up()
    await wait_for(is_behind_a_symmetric_nat, 2 * RETRY_S, every_s=0.5)
