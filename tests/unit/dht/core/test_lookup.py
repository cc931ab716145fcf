"""The lookup's choices, without a network."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from aitorrent_dht.core.contact import Contact
from aitorrent_dht.core.lookup import Lookup


def contact(node: int, host: str = "127.0.0.1") -> Contact:
    return Contact(node, node.to_bytes(32, "big"), host, 8468)


def lookup(seeds: list[int], **options: Any) -> Lookup:
    return Lookup(0, [contact(n) for n in seeds], own_id=1 << 159, **options)


def test_asks_three_at_a_time_nearest_first() -> None:
    it = lookup([9, 3, 7, 5, 1])
    assert it.ready() == [contact(1), contact(3), contact(5)]
    assert it.ready() == []
    it.replied(contact(3), [])
    assert it.ready() == [contact(7)]


def test_slow_node_frees_its_place_and_may_still_answer() -> None:
    it = lookup([1, 2, 3, 4])
    it.ready()
    it.slow(contact(1))
    assert it.ready() == [contact(4)]
    it.replied(contact(1), [contact(0x10)])
    assert contact(1) in it.closest(9)
    for n in (2, 3, 4):
        it.replied(contact(n), [])
    assert it.ready() == [contact(0x10)]


def test_ends_when_the_nearest_k_answered_and_farther_ones_are_not_asked() -> None:
    it = lookup([1, 2, 3, 4, 5], k=3)
    assert it.ready() == [contact(1), contact(2), contact(3)]
    for n in (1, 2, 3):
        assert not it.is_done
        it.replied(contact(n), [])
    assert it.is_done
    assert it.ready() == []
    assert it.closest(3) == [contact(1), contact(2), contact(3)]


def test_does_not_wait_for_silent_nodes_once_others_answered() -> None:
    it = lookup([1, 2, 3])
    it.ready()
    it.slow(contact(1))
    it.replied(contact(2), [])
    assert not it.is_done
    it.replied(contact(3), [])
    assert it.is_done
    assert it.closest(9) == [contact(2), contact(3)]


def test_waits_for_slow_nodes_while_nobody_answered() -> None:
    it = lookup([1, 2])
    it.ready()
    it.slow(contact(1))
    it.slow(contact(2))
    assert not it.is_done
    it.failed(contact(1))
    it.failed(contact(2))
    assert it.is_done
    assert it.closest(9) == []


def test_paths_share_no_node_and_two_of_three_end_a_search() -> None:
    it = lookup([1, 2, 3, 4, 5, 6], paths=3, quorum=2)
    assert it.ready() == [contact(1), contact(2), contact(3)]
    it.replied(contact(1), [contact(2), contact(0x20)], hit=True)
    assert not it.is_done
    it.replied(contact(2), [contact(1)], hit=True)
    assert it.is_done


def test_path_with_a_hit_leaves_its_place_empty_while_others_wait() -> None:
    it = lookup([1, 2, 3, 4, 5, 6], paths=3, quorum=2)
    it.ready()
    it.replied(contact(1), [], hit=True)
    assert it.ready() == []
    it.replied(contact(2), [])
    assert it.ready() == [contact(5)]


def test_path_that_is_left_alone_asks_three_at_a_time() -> None:
    it = lookup([1, 2, 3, 6, 9, 12], paths=3, quorum=2, k=12)
    it.ready()
    it.replied(contact(2), [])
    it.replied(contact(3), [])
    it.ready()
    it.failed(contact(9))
    it.failed(contact(12))
    it.replied(contact(1), [contact(n) for n in (0x20, 0x21, 0x22)])
    assert it.ready() == [contact(6), contact(0x20), contact(0x21)]


def test_one_seed_is_enough_for_three_paths() -> None:
    it = lookup([100], paths=3, quorum=2)
    assert it.ready() == [contact(100)]
    it.replied(contact(100), [contact(n) for n in (1, 2, 3, 4)])
    assert it.ready() == [contact(1), contact(2), contact(3)]


def test_what_a_node_names_is_asked_on_its_own_path_alone() -> None:
    it = lookup([10, 20, 30], paths=3, quorum=2)
    it.ready()
    it.replied(contact(10), [contact(n) for n in (1, 2, 3)])
    assert it.ready() == [contact(1)]
    it.replied(contact(1), [], hit=True)
    it.replied(contact(20), [])
    it.replied(contact(30), [])
    assert it.ready() == [], "one liar would find its own records on two paths"
    assert it.is_done


def test_node_that_another_path_asked_takes_no_place_of_this_one() -> None:
    it = lookup([8, 9, 10], paths=3, k=3)
    it.ready()
    it.replied(contact(8), [contact(1)])
    assert it.ready() == [contact(1)]
    it.replied(contact(9), [contact(1), contact(2)])
    assert it.ready() == [contact(2)]


def test_what_a_teller_of_silent_nodes_named_is_not_asked_any_more() -> None:
    it = lookup([100, 200])
    it.ready()
    it.replied(contact(100), [contact(n) for n in range(1, 20)])
    for _ in range(3):
        asked = it.ready()
        for each in asked:
            it.slow(each)
    left = it.ready()
    assert all(each.id >= 100 for each in left)
    it.replied(contact(200), [contact(50)])
    assert it.ready() == [contact(50)]


def test_thousand_nodes_of_one_subnet_count_as_ten() -> None:
    it = Lookup(0, [contact(1000)], own_id=1 << 159)
    it.ready()
    it.replied(contact(1000), [contact(n, f"8.8.8.{n % 250}") for n in range(1, 999)])
    asked = 0
    while batch := it.ready():
        asked += len(batch)
        for each in batch:
            it.replied(each, [])
    assert asked == 10


def test_own_id_is_never_asked() -> None:
    it = Lookup(0, [contact(5)], own_id=3)
    it.ready()
    it.replied(contact(5), [contact(3), contact(4)])
    assert it.ready() == [contact(4)]


@pytest.mark.parametrize("paths", [1, 3])
def test_number_of_questions_is_bounded_whatever_is_named(paths: int) -> None:
    random = Random(3)
    it = Lookup(0, [contact(1 << 150)], own_id=1, paths=paths, max_asked=60)
    asked, depth = 0, 149
    while batch := it.ready():
        asked += len(batch)
        for each in batch:
            depth = max(12, depth - 1)
            it.replied(each, [contact(random.getrandbits(depth) | 1) for _ in range(20)])
    assert asked <= 60
    assert it.is_done


def test_lookup_that_does_not_grow_asks_the_seeds_alone() -> None:
    it = lookup([8, 9], grows=False)
    assert it.ready() == [contact(8), contact(9)]
    it.replied(contact(8), [contact(1)])
    it.replied(contact(9), [])
    assert it.ready() == []
    assert it.is_done


def test_nodes_at_a_suspected_place_are_passed_by() -> None:
    it = Lookup(0, [contact(0x1F), contact(0x80)], own_id=1 << 159, avoid=(0x10, 0x10))
    assert it.ready() == [contact(0x80)]
    it.replied(contact(0x80), [contact(0x11), contact(0x20), contact(0x0F)])
    assert it.ready() == [contact(0x0F), contact(0x20)]
