"""Real daemons on the hosts of the lab."""

from __future__ import annotations

import pytest

from tests.support import cli_runs
from tests.support.nat.daemons import daemon_at, peer_id, peers
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]


async def test_daemons_behind_nat_boxes_connect_to_a_public_one(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    public, home = nat_lab.public(), nat_lab.place("symmetric")
    hub = await daemon_at(daemon_factory, public)
    leaf = await daemon_at(daemon_factory, home, bootstrap=public)
    (seen,) = await wait_for(lambda: peers(hub), 20, every_s=0.1)
    assert seen["id"] == await peer_id(leaf)
    assert f"/ip4/{home.public}/" in seen["address"]
    code, out, _ = await cli_runs.run(leaf, "peers")
    assert code == 0
    assert public.address in out
