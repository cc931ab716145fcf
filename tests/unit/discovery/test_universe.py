"""Gossip among a hundred nodes: how fast, how many messages, and what dead nodes cost."""

from __future__ import annotations

import pytest

from aitorrent_discovery.peers.standing import LOST_SPREAD_S, Standings
from aitorrentd.api import PeerId
from tests.support.discovery.universe import OUTBOUND, ROUND_S, Universe

pytestmark = pytest.mark.slow

ROUNDS = 6


@pytest.mark.slow
def test_every_node_hears_of_nearly_every_other_within_six_rounds(
    figures: dict[str, str],
) -> None:
    universe = Universe(100)
    universe.run(ROUNDS * ROUND_S)
    share = [universe.knowing(peer) for peer in universe.nodes]
    assert sum(share) / len(share) >= 0.999
    assert min(share) >= 0.98, "each record reaches all but one or two nodes by then"
    # Each round costs a node 3 exchanges that it begins, and each new connection one more.
    nodes = len(universe.nodes)
    exchanges = universe.counts["exchanges"]
    assert exchanges <= nodes * (3 * (ROUNDS + 3) + OUTBOUND + 2)
    received = sum(node.gossip.counts["new"] for node in universe.nodes.values())
    sent = sum(node.gossip.counts["sent"] for node in universe.nodes.values())
    assert received >= 0.99 * nodes * (nodes - 1)
    assert sent <= 1.6 * received, "records that the peer has are rarely sent"
    size = universe.counts["bytes"] / nodes / (ROUNDS * ROUND_S) * 3600
    assert not any(node.gossip.counts["faults"] for node in universe.nodes.values())
    newcomer = universe.add()
    universe.run(ROUNDS * ROUND_S)
    assert universe.knowing(newcomer.id) >= 0.98
    assert len(newcomer.gossip.book) >= 98
    figures["gossip of 100 nodes that just met"] = (
        f"{exchanges / nodes:.0f} exchanges, {sent / received:.2f} records sent per record new,"
        f" {size / 1024:.0f} KiB per node and hour"
    )


def test_idle_universe_sends_filters_and_no_records(figures: dict[str, str]) -> None:
    universe = Universe(30)
    universe.run(600)
    before = sum(node.gossip.counts["sent"] for node in universe.nodes.values())
    size = universe.counts["bytes"]
    universe.run(300)
    after = sum(node.gossip.counts["sent"] for node in universe.nodes.values())
    assert after - before < 30
    per_hour = (universe.counts["bytes"] - size) / 30 * 12
    assert per_hour < 1024 * 1024
    figures["idle gossip of 30 nodes"] = f"{per_hour / 1024:.0f} KiB per node and hour"


def test_connections_are_replaced_when_a_third_of_the_nodes_die() -> None:
    universe = Universe(40)
    universe.run(300)
    for node in list(universe.nodes.values())[::3]:
        universe.kill(node)
    universe.run(400)
    alive = [node for node in universe.nodes.values() if node.alive]
    dialled = [sum(node.links.values()) for node in alive]
    assert sum(n >= OUTBOUND for n in dialled) >= 0.9 * len(alive)
    # Dead nodes are tried less and less often.
    failed = universe.counts["failed_dials"]
    universe.run(300)
    assert universe.counts["failed_dials"] - failed <= max(10, failed)


def test_nodes_that_lose_the_same_peer_come_back_spread_over_time() -> None:
    universe = Universe(1)
    lost = PeerId("12D3KooWbootstrap")
    times = []
    for _ in range(1000):
        standings = Standings(universe.random.random)
        standings.lost(lost, 0.0)
        times.append(standings.of(lost).dial_after)
    busiest = max(sum(s <= t < s + 1 for t in times) for s in range(int(LOST_SPREAD_S)))
    assert busiest < 70
    assert max(times) <= LOST_SPREAD_S
