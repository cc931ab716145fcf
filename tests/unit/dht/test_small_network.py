"""What a network costs that never fills a routing table, in virtual time."""

from __future__ import annotations

import pytest

from aitorrent_dht.core.contact import Contact
from aitorrent_dht.core.density import Density
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


def test_ids_around_its_own_do_not_change_how_large_a_node_takes_the_network_to_be() -> None:
    universe = Universe(seed=11, tuning=Tuning(k=8))
    universe.grow(60)
    universe.run(600.0)
    state = universe.nodes[50].node.state
    before = state.network_size()
    assert 30 < before < 120
    for n in range(1, 32):  # the distances of an attacker who tried keys for long
        placed = Contact(state.id ^ n, n.to_bytes(32, "big"), f"9.{n}.1.1", 8468)
        state.table.seen(placed, universe.now)
    assert state.table.network_size() > 1e12
    assert before / 2 < state.network_size() < before * 2


def test_size_of_the_network_is_that_of_most_regions() -> None:
    density = Density()
    for region in range(4):
        target = region << 154
        near = [Contact(target + (n << 150), b"", "9.9.9.9", 1) for n in (1, 2, 3)]
        density.note(target, near)
        assert density.size(7.0) == (7.0 if region < 2 else pytest.approx(2 * 2**10 / 3))
    for n in range(100):  # one region has one voice, however often it is looked at
        density.note(n, [Contact(n + each, b"", "9.9.9.9", 1) for each in (1, 2, 3)])
    assert density.size(7.0) == pytest.approx(2 * 2**10 / 3)
    density.note(1 << 155, [Contact(1 << 155, b"", "9.9.9.9", 1)] * 3)
    density.note(1 << 156, [])
    assert density.size(7.0) == pytest.approx(2 * 2**10 / 3)
