"""A daemon with 64 file descriptors: peers are refused in time, and operators get in."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aitorrent_transport.links.dial import dial
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.streams.channel import Channel
from aitorrent_transport.streams.windows import WindowBudget
from aitorrentd.api import Busy
from aitorrentd.doctor.checks import run_offline
from tests.support.nodes import DaemonFactory, short_dir, wait_for
from tests.support.transport.transport_nodes import Identity


async def join(port: int, seed: str) -> Channel | str:
    """A peer that stays, or why it may not."""
    try:
        link = await dial("127.0.0.1", port, Credentials(Identity(seed), "main", "test"))
    except Busy as e:
        return e.message
    channel = Channel(
        link,
        clock=time,
        budget=WindowBudget(),
        keepalive_s=15,
        greeting={"v": 1},
    )
    channel.start()
    await channel.greeted(5)
    return channel


async def test_peers_never_take_the_descriptors_of_the_control_socket(
    daemon_factory: DaemonFactory,
) -> None:
    directory = short_dir()
    where = {"state_dir": str(directory / "state")}
    daemon = await daemon_factory({"node": where}, directory=directory, files=64)
    (address,) = (await daemon.call("node.id"))["addresses"]
    port = int(address.split("/")[4])
    joined = [await join(port, f"peer {n}") for n in range(50)]
    peers = [channel for channel in joined if isinstance(channel, Channel)]
    refusals = {reason for reason in joined if isinstance(reason, str)}
    assert len(peers) >= 10
    assert len(refusals) == 1
    assert "no file descriptors left for more peers" in refusals.pop()

    assert len((await daemon.call("transport.peers"))["peers"]) == len(peers)
    warnings = {w["code"]: w["text"] for w in (await daemon.call("node.status"))["warnings"]}
    assert "64 file descriptors" in warnings["descriptors"]
    checks = {c["name"]: c for c in (await daemon.call("node.doctor"))["checks"]}
    assert "of 64 file descriptors in use" in checks["limits"]["text"]
    # Also when it is asked from outside, which has a limit of its own.
    outside = await asyncio.to_thread(run_offline, daemon.directory / "aitorrent.yaml")
    (limits,) = [c for c in outside if c["name"] == "limits"]
    assert "the daemon has" in limits["text"]
    assert "of 64 file descriptors in use" in limits["text"]
    told = [line for line in daemon.log().splitlines() if "before authentication" in line]
    assert len(told) == 1

    async def joins() -> Any:
        again = await join(port, "late")
        if isinstance(again, Channel):
            again.close("done")
        return isinstance(again, Channel)

    for channel in peers:
        channel.close("done")
    await wait_for(joins, 10, every_s=0.2)
