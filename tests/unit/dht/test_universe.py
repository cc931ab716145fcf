"""A thousand nodes in virtual time: the production core, with death, churn, lies and attacks.

Each scenario is seeded and shows its figures after the tests.
"""

from __future__ import annotations

import pytest

from aitorrent_dht.core.record import provider_key
from tests.support.dht.universe import EPOCH_S, Universe, key_near, node_id_of_key

pytestmark = pytest.mark.slow

NODES = 1000
NAMES = [f"thing {i}" for i in range(20)]


def grown(seed: int, *, lies: float = 0.0, nodes: int = NODES) -> Universe:
    universe = Universe(seed)
    universe.grow(nodes, lies=lies)
    assert all(n.node.upkeep.is_joined for n in universe.alive()[1:])
    return universe


def publish(universe: Universe, names: list[str] = NAMES) -> None:
    for name in names:
        universe.put(universe.random.choice(universe.alive()), name)


def test_a_third_of_the_nodes_dies_at_once_and_comes_back_as_others(
    figures: dict[str, str],
) -> None:
    universe = grown(1)
    publish(universe)
    whole = universe.search(NAMES, 200)
    figures["dht: 1,000 nodes"] = whole.text()
    assert whole.share == 1.0
    for sim in universe.random.sample(universe.alive(), NODES * 3 // 10):
        universe.kill(sim)
    dead = universe.search(NAMES, 200)
    figures["dht: 30 % dead"] = dead.text()
    assert dead.share >= 0.995
    # The hours after: 30 % of the nodes leave in each, and others come.
    for _ in range(12):
        for sim in universe.random.sample(universe.alive(), NODES * 3 // 100):
            universe.kill(sim)
        for _ in range(NODES * 3 // 100):
            universe.add()
            universe.run(10.0)
    churned = universe.search(NAMES, 200)
    figures["dht: after an hour of 30 % churn"] = churned.text()
    assert churned.share >= 0.995


def test_a_fifth_of_the_nodes_lies(figures: dict[str, str]) -> None:
    universe = grown(2, lies=0.2)
    assert len(universe.alive(honest=False)) - len(universe.alive()) > NODES * 0.15
    publish(universe)
    result = universe.search(NAMES, 200)
    figures["dht: 20 % liars"] = result.text()
    assert result.share >= 0.95


def test_halves_that_were_cut_apart_find_each_other_again(figures: dict[str, str]) -> None:
    universe = grown(3, nodes=300)
    publish(universe)
    with universe.split():
        universe.run(1800.0)
        half = [n for n in universe.alive() if n.side == 0]
        publisher = universe.random.choice(half)
        universe.put(publisher, "said while apart")
    universe.run(1800.0)
    result = universe.search([*NAMES, "said while apart"], 100)
    figures["dht: after half an hour apart"] = result.text()
    assert result.share >= 0.995


def test_two_hundred_ids_near_a_key_do_not_hide_it(figures: dict[str, str]) -> None:
    universe = grown(4)
    name = "wanted"
    target = node_id_of_key(provider_key(name))
    for i in range(200):
        host = f"99.{i // 10}.7.{i % 10 + 1}"
        universe.add(lie="sybil", key=key_near(universe.random, target, 10), host=host)
        universe.run(0.1)
    universe.run(60.0)
    stored = universe.put(universe.random.choice(universe.alive()), name)
    honest = [n for n in universe.alive() if n.node.state.store.get(provider_key(name), EPOCH_S)]
    result = universe.search([name], 50)
    figures["dht: 200 ids near the key"] = f"{len(honest)} honest keepers; {result.text()}"
    assert stored.is_dense
    assert honest
    assert result.share >= 0.95


def test_same_seed_gives_the_same_universe() -> None:
    def run() -> tuple[int, list[int]]:
        universe = Universe(5)
        universe.grow(60)
        return universe.messages, [n.node.id for n in universe.nodes]

    assert run() == run()


@pytest.mark.parametrize("lose", [0.05])
def test_lost_datagrams_cost_time_and_not_answers(lose: float, figures: dict[str, str]) -> None:
    universe = Universe(6, loss=lose)
    universe.grow(200)
    publish(universe)
    result = universe.search(NAMES, 100)
    figures["dht: 5 % of datagrams lost"] = result.text()
    assert result.share == 1.0
