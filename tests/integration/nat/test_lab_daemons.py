"""Real daemons on the hosts of the lab."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.nat.test_matrix import answer, loaded, reference
from tests.support import cli_runs
from tests.support.nat.daemons import PORT, daemon_at, peer_id, peers, route_to, village
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import Daemon, DaemonFactory, wait_for
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import READY_S

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


@pytest.mark.timeout(900)
async def test_a_node_without_root_and_without_upnp_works(
    nat_lab: Lab, daemon_factory: DaemonFactory, tmp_path: Path
) -> None:
    """It finds a peer that it was never told of, reaches it directly, and answers a prompt."""
    path = make_model(tmp_path / "m")
    publics = await village(daemon_factory, nat_lab)
    bootstrap = [f"{host.address}:{PORT}" for host in publics]

    async def at_home(layers: str, user: int = 0) -> Daemon:
        model = {"name": "m", "path": str(path), "layers": layers, "kv_budget": "64MiB"}
        plugins = {
            "shards": {"enabled": True, "models": [model]},
            "transport": {"bootstrap": bootstrap},
        }
        host = nat_lab.place("portrestricted")
        return await daemon_at(daemon_factory, host, {"plugins": plugins}, user=user)

    peer, node = await at_home("3-6"), await at_home("0-3", user=1000)
    status = Path(f"/proc/{node.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    for each in (peer, node):
        await wait_for(lambda: loaded(each), READY_S, every_s=0.3)  # noqa: B023

    async def is_direct() -> bool:
        return await route_to(node, await peer_id(peer)) in ("punched", "quic")

    await wait_for(is_direct, 150, every_s=0.3)
    assert await answer(node) == reference(path)
    nat = await node.call("nat.status")
    assert nat["parts"]["forwarded ports"].startswith("none: ")
