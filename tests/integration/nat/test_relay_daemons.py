"""Daemons that are reached through relays: on loopback, and behind NAT boxes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import cli_runs
from tests.support.nat.daemons import (
    HELD_S,
    OFF,
    PORT,
    daemon_at,
    held_at,
    peer_id,
    peers,
    route_to,
)
from tests.support.nat.lab import Host, Lab
from tests.support.nat.namespaces import CAN_MAKE, REASON
from tests.support.nodes import Daemon, DaemonFactory, free_port, wait_for
from tests.support.servers.ollama_server import FakeOllama


async def quiet(make: DaemonFactory, **plugins: Any) -> Daemon:
    nat = {"port": 0, "punch": False, **plugins.pop("nat", {})}
    tree = {"ollama": OFF, "openai": OFF, "shards": OFF, "dht": OFF, "nat": nat, **plugins}
    return await make({"plugins": tree})


async def test_prompt_is_answered_through_a_relay(daemon_factory: DaemonFactory) -> None:
    async with FakeOllama() as server:
        port = free_port()
        place = f"/ip4/127.0.0.1/tcp/{port}"
        relay = await quiet(daemon_factory, transport={"port": port, "announce": place})
        relay_id = await peer_id(relay)
        bootstrap = f"{place}/p2p/{relay_id}"
        ollama = {"url": server.url, "poll_s": 0.2}
        target = await quiet(daemon_factory, transport={"bootstrap": bootstrap}, ollama=ollama)
        target_id = await peer_id(target)
        dialer = await quiet(daemon_factory)

        async def holds() -> bool:
            return await held_at(target) == [relay_id]

        await wait_for(holds, HELD_S, every_s=0.2)
        circuit = f"{bootstrap}/p2p-circuit/p2p/{target_id}"
        assert circuit in (await target.call("node.id"))["addresses"]
        await dialer.call("transport.connect", {"address": circuit})
        assert await route_to(dialer, target_id) == "relay"
        assert await route_to(target, await peer_id(dialer)) == "relay"

        async def offered() -> bool:
            models = (await dialer.call("inference.models"))["models"]
            return any(row["name"] == server.names[0] for row in models)

        await wait_for(offered, 20, every_s=0.2)
        async with await dialer.client() as client:
            asked = {"model": server.names[0], "prompt": "hi"}
            stream = client.stream("inference.generate", asked)
            assert "".join([item["text"] async for item in stream]) == "The sky is blue"
        reply = await relay.call("nat.relays")
        (circuit_row,) = reply["circuits"]
        assert circuit_row["target"] == target_id
        assert circuit_row["passed"] > 0
        code, out, _ = await cli_runs.run(relay, "nat", "relays")
        assert code == 0
        assert "GIVEN TO" in out and "FROM" in out
        code, out, _ = await cli_runs.run(target, "nat", "relays")
        assert code == 0
        assert "HELD AT" in out and circuit in out
        code, out, _ = await cli_runs.run(target, "nat", "status")
        assert f"reached through …{relay_id[-8:]}" in out


class Net:
    """Two public relays and two nodes, each behind a symmetric NAT of its own."""

    def __init__(self, lab: Lab, make: DaemonFactory) -> None:
        self._lab = lab
        self._make = make
        self.hosts: list[Host] = []
        self.relays: list[Daemon] = []

    async def start(self) -> tuple[Daemon, Daemon]:
        """Target and dialer; the target holds reservations at both relays."""
        for _ in range(2):
            host = self._lab.public()
            first = self.hosts[0] if self.hosts else None
            self.relays.append(await daemon_at(self._make, host, bootstrap=first))
            self.hosts.append(host)
        places = [f"{host.address}:{PORT}" for host in self.hosts]
        config = {"plugins": {"transport": {"bootstrap": places}}}
        nodes = [
            await daemon_at(self._make, self._lab.place("symmetric"), config) for _ in range(2)
        ]
        wanted = {await peer_id(relay) for relay in self.relays}
        for node in nodes:

            async def holds() -> bool:
                return set(await held_at(node)) == wanted  # noqa: B023

            await wait_for(holds, HELD_S, every_s=0.2)
        return nodes[0], nodes[1]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.skipif(not CAN_MAKE, reason=REASON)
async def test_a_killed_relay_is_replaced_behind_symmetric_nats(
    nat_lab: Lab, daemon_factory: DaemonFactory
) -> None:
    net = Net(nat_lab, daemon_factory)
    target, dialer = await net.start()
    target_id, dialer_id = await peer_id(target), await peer_id(dialer)

    async def connected() -> bool:
        return await route_to(dialer, target_id) == "relay"

    addresses = (await target.call("node.id"))["addresses"]
    circuits = [text for text in addresses if "p2p-circuit" in text]
    assert len(circuits) == 2
    await dialer.call("transport.connect", {"address": circuits[0]})
    assert await connected()
    ids = {await peer_id(relay): relay for relay in net.relays}
    await next(
        relay for each, relay in ids.items() if f"/p2p/{each}/p2p-circuit" in circuits[0]
    ).kill()

    async def elsewhere() -> bool:
        row = next((r for r in await peers(dialer) if r["id"] == target_id), None)
        return row is not None and row["address"] in circuits[1]

    await wait_for(elsewhere, 30, every_s=0.2)
    assert await route_to(target, dialer_id) == "relay"
