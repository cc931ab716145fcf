"""Who has to go when many connections do not authenticate."""

from __future__ import annotations

import random

from aitorrent_transport.links.half_open import HalfOpen
from aitorrent_transport.protection.limits import Limits

LIMITS = Limits()


def filled(*addresses: str, limit: int = 64) -> tuple[HalfOpen[int], list[int | None]]:
    table: HalfOpen[int] = HalfOpen(Limits(half_open=limit))
    return table, [table.add(i, address) for i, address in enumerate(addresses)]


def test_host_over_its_share_loses_its_own_oldest_silent_connection() -> None:
    table, _ = filled("10.5.0.7", "10.5.0.8", *["10.5.0.7"] * 3)
    table.spoke(0)
    assert table.add(9, "10.5.0.7") == 2
    assert 0 in table and 1 in table and 9 in table


def test_neighbours_of_a_flooding_host_get_in_and_stay() -> None:
    draw = random.Random(5)
    table: HalfOpen[int] = HalfOpen(LIMITS)
    flood = 0
    for i in range(2000):
        if draw.random() < 0.01:
            honest = 10_000 + i
            assert table.add(honest, "10.5.0.9") is None
            for _ in range(20):
                flood += 1
                table.add(-flood, "10.5.0.7")
            assert table.remove(honest)
        flood += 1
        table.add(-flood, "10.5.0.7")
    assert len(table) == LIMITS.half_open_per_host


def test_network_over_its_share_loses_a_connection_of_its_largest_host() -> None:
    hosts = [f"10.5.0.{i}" for i in range(1, LIMITS.half_open_per_subnet - 1)]
    table, _ = filled("10.5.0.99", "10.5.0.99", *hosts)
    assert len(table) == LIMITS.half_open_per_subnet
    assert table.add(50, "10.5.0.100") == 0
    assert table.add(51, "10.6.0.1") is None


def test_full_table_loses_a_connection_of_its_largest_network() -> None:
    table, _ = filled("10.1.0.1", "10.2.0.1", "10.2.0.2", "10.2.0.2", limit=4)
    assert table.add(50, "10.3.0.1") == 2
    assert len(table) == 4


def test_loopback_has_no_share_but_the_total() -> None:
    _, victims = filled(*["127.0.0.1"] * 10, limit=8)
    assert victims == [None] * 8 + [0, 1]
