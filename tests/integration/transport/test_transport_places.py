"""Addresses that lead back to the node itself, and peers that lie about where things are."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from aitorrent_transport.health import warnings
from aitorrentd.api import PeerConnected, Unavailable
from aitorrentd.api.network.addresses import parse_address
from tests.support.nodes import free_port, wait_for
from tests.support.transport.transport_nodes import TestNode, node


def codes(of: TestNode) -> dict[str, str]:
    return {w.code: w.text for w in warnings(of.transport)}


def has(of: TestNode, peers: int) -> bool:
    return len(of.transport.peers()) == peers


async def test_node_that_its_own_bootstrap_address_names_has_nothing_to_warn_of(
    tmp_path: Path,
) -> None:
    """One list of bootstrap addresses serves all machines; a name may lead to 127.0.1.1."""
    port = free_port()
    places = [f"localhost:{port}"]
    async with node(tmp_path, "hub", port=port, bootstrap=places) as hub:
        await wait_for(lambda: hub.transport.listener.statistics()["failed"] > 0)
        await wait_for(lambda: not codes(hub))
        assert hub.transport.keeper.sought == 0
        assert not hub.transport.peers()
        async with node(tmp_path, "one", bootstrap=places) as one:
            await wait_for(lambda: one.transport.peer(hub.id))
            assert one.transport.keeper.sought == 1
            assert not codes(one)


async def test_place_where_another_node_takes_over_is_sought_again(tmp_path: Path) -> None:
    port = free_port()
    async with node(tmp_path, "one", port=port, bootstrap=[f"127.0.0.1:{port}"]) as one:
        await wait_for(lambda: one.transport.keeper.sought == 0)
        await one.transport.listener.unlisten()
        async with node(tmp_path, "hub", port=port) as hub:
            await wait_for(lambda: one.transport.peer(hub.id), 20)
            await wait_for(lambda: one.transport.keeper.sought == 1)


async def test_own_address_that_a_peer_tells_is_never_dialled(tmp_path: Path) -> None:
    """Machines share the addresses of container bridges, at which each would meet itself."""
    async with node(tmp_path, "a") as a, node(tmp_path, "b", announce="192.0.2.1:1") as b:
        await b.transport.connect(a.address)
        await wait_for(lambda: a.transport.peer(b.id))
        a.transport.table.note_told(b.id, [f"/ip4/127.0.0.1/tcp/{a.port}"])
        candidates = await a.transport.dialler._candidates(b.id, [a.address.partition("/p2p/")[0]])
        assert parse_address(a.address).of(b.id) not in candidates
        await a.transport.disconnect(b.id)
        await wait_for(lambda: not a.transport.table.get(b.id))
        failed = a.transport.listener.statistics()["failed"]
        with pytest.raises(Unavailable, match="no known address"):
            await a.transport.dialler.connect(b.id, [a.address.partition("/p2p/")[0]])
        assert a.transport.listener.statistics()["failed"] == failed


@pytest.mark.parametrize("observed", [("nonsense", 1), ("", 0), ("10.0.0.1", 0), ("fe80::1%x", 9)])
async def test_false_claim_of_where_this_node_is_costs_nothing(
    tmp_path: Path, observed: tuple[str, int]
) -> None:
    async with node(tmp_path, "a") as a, node(tmp_path, "b") as b:
        await b.transport.connect(a.address)
        await wait_for(lambda: a.transport.peer(b.id))
        (peer,) = b.transport.table
        peer.best.link.observed = observed  # type: ignore[misc]
        (seen,) = a.transport.table
        seen.best.tell_duplicate("/ip4/192.0.2.1/tcp/1")
        await wait_for(lambda: "duplicate_key" in codes(b))
        assert b.transport.peer(a.id)


async def test_peers_come_back_to_a_bootstrap_node_that_restarts(tmp_path: Path) -> None:
    port, count = free_port(), 30
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        up: list[TestNode] = []

        async def live(i: int) -> None:
            place = f"127.0.0.1:{port}"
            async with node(tmp_path / "peers", f"peer{i}", bootstrap=[place]) as one:
                up.append(one)
                await stop.wait()

        for _ in range(2):
            async with node(tmp_path, "hub", port=port) as hub:
                if not up:
                    for i in range(count):
                        group.create_task(live(i))
                await wait_for(partial(has, hub, count), 30)
                # Each came once: nobody was turned away and nobody dialled twice.
                assert hub.count(PeerConnected) == count
                assert hub.transport.listener.statistics()["refused"] == 0
        stop.set()
