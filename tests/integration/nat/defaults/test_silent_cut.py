"""A path that goes dead without a word: how soon a node that sends notices."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.nat.daemons import daemon_at, peer_id, peers
from tests.support.nat.lab import Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import DaemonFactory, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_MAKE, reason=REASON),
]
NOTICED_S = 14.0
"Keepalives alone, every 15 s, need 20 s at least."


async def test_peer_whose_path_is_cut_is_lost_before_keepalives_would_tell(
    nat_lab: Lab, daemon_factory: DaemonFactory, figures: dict[str, str]
) -> None:
    one, two = nat_lab.public(), nat_lab.public()
    far = await daemon_at(daemon_factory, two)
    near = await daemon_at(daemon_factory, one, bootstrap=two)
    far_id = await peer_id(far)
    await wait_for(lambda: peers(near), 20)
    loop = asyncio.get_running_loop()
    with nat_lab.cut(one, two):
        began = loop.time()
        ping = {"peer": far_id, "count": 1, "timeout_s": 1}
        assert (await near.call("transport.ping", ping))["rtt_ms"] == [None]

        async def is_lost() -> bool:
            return not await peers(near)

        await wait_for(is_lost, NOTICED_S, every_s=0.1)
        figures["a cut path is noticed after"] = f"{loop.time() - began:.1f} s"
        await wait_for(lambda: "nothing arrives there" in near.log())
    await wait_for(lambda: peers(near), 15, every_s=0.1)
