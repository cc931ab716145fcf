"""What a network costs that never fills a routing table, in virtual time."""

from __future__ import annotations

from aitorrent_dht.core.state import Tuning
from tests.support.dht.universe import Universe

NODES = 5


def test_small_network_is_quiet_once_its_nodes_know_each_other() -> None:
    universe = Universe(seed=7)
    universe.grow(NODES)
    assert all(len(sim.node.state.table) == NODES - 1 for sim in universe.alive())
    universe.run(120.0)
    before = universe.messages
    universe.run(600.0)
    per_node_s = (universe.messages - before) / NODES / 600.0
    assert per_node_s < 2.0, f"{per_node_s:.1f} messages a second from each node"


def test_node_that_joins_a_quiet_network_is_found_by_all() -> None:
    universe = Universe(seed=8)
    universe.grow(NODES)
    universe.run(600.0)
    universe.add(known=universe.nodes[:1])
    universe.run(90.0)
    assert all(len(sim.node.state.table) == NODES for sim in universe.alive())


def test_far_buckets_are_full_some_minutes_after_a_node_joined() -> None:
    universe = Universe(seed=10, tuning=Tuning(k=8))
    universe.grow(32)
    universe.run(180.0)
    far = [dict(sim.node.state.table.buckets())[159] for sim in universe.alive()]
    assert all(len(bucket.live) == 8 for bucket in far)
    messages = universe.messages
    universe.run(180.0)
    assert universe.messages - messages < 32 * 10, "filling does not end"


def test_network_that_loses_all_its_nodes_is_tried_again_soon() -> None:
    universe = Universe(seed=9)
    universe.grow(2)
    first, second = universe.nodes
    universe.run(600.0)
    universe.kill(first)
    assert universe.run_until(lambda: not len(second.node.state.table), 3600.0)
    first.alive = True
    universe.run(70.0)
    assert len(second.node.state.table) == 1
