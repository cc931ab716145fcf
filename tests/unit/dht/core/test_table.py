"""The routing table: who gets in, who stays, who is nearest."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_dht.core.contact import Contact
from aitorrent_dht.core.table import K, RoutingTable

OWN = 1 << 159


def contact(node: int, host: str = "127.0.0.1", port: int = 8468, key: bytes = b"") -> Contact:
    return Contact(node, key or node.to_bytes(32, "big"), host, port)


def far(n: int, host: str = "127.0.0.1") -> Contact:
    """The n-th node of the farthest bucket."""
    return contact(n + 1, host)


def full_bucket() -> RoutingTable:
    table = RoutingTable(OWN)
    for n in range(K):
        assert table.seen(far(n), 10.0 + n) is None
    return table


def test_full_bucket_keeps_old_live_nodes_and_names_the_oldest_to_ping() -> None:
    table = full_bucket()
    assert table.seen(far(99), 50.0) is None  # all answered a moment ago
    assert table.seen(far(99), 350.0) == far(0)
    assert table.get(far(99).id) is None
    assert table.seen(far(0), 351.0) is None  # it answered
    assert {e.contact for e in table} == {far(n) for n in range(K)}
    assert table.seen(far(99), 352.0) == far(1)  # the next one is asked


def test_silent_node_of_a_full_bucket_gives_its_place_to_the_newest_replacement() -> None:
    table = full_bucket()
    table.seen(far(98), 50.0)
    table.seen(far(99), 51.0)
    assert table.failed(far(0))
    found = {e.contact for e in table}
    assert far(99) in found
    assert far(0) not in found and far(98) not in found


def test_node_without_a_replacement_survives_one_lost_packet() -> None:
    table = RoutingTable(OWN)
    table.seen(far(0), 1.0)
    assert not table.failed(far(0))
    assert len(table) == 1
    table.seen(far(0), 2.0)
    assert not table.failed(far(0))
    assert table.failed(far(0))
    assert len(table) == 0


def test_own_id_never_enters() -> None:
    table = RoutingTable(OWN)
    assert not table.would_take(contact(OWN))
    table.seen(contact(OWN), 1.0)
    assert len(table) == 0


def test_two_nodes_of_one_subnet_in_a_bucket_and_ten_in_the_table() -> None:
    table = RoutingTable(OWN)
    for bucket in range(20):
        for n in range(3):
            table.seen(
                contact(OWN ^ (1 << (150 - bucket)) ^ n, f"198.51.100.{bucket * 3 + n}"), 1.0
            )
    assert len(table) == 60  # a documentation network: private, not counted
    table = RoutingTable(OWN)
    for bucket in range(20):
        for n in range(3):
            table.seen(contact(OWN ^ (1 << (150 - bucket)) ^ n, f"8.8.8.{bucket * 3 + n}"), 1.0)
    assert len(table) == 10
    assert all(len(bucket.live) <= 2 for _, bucket in table.buckets())


def test_subnet_of_ip6_is_a_56() -> None:
    table = RoutingTable(OWN)
    for n in range(9):
        table.seen(far(n, f"2a02:1234:5678:10{n:02x}::1"), 1.0)
    assert len(table) == 2
    table.seen(far(20, "2a02:1234:5678:2000::1"), 1.0)
    assert len(table) == 3


def test_place_that_a_subnet_gives_up_is_free_again() -> None:
    table = RoutingTable(OWN)
    for n in range(3):
        table.seen(far(n, f"8.8.8.{n}"), 1.0)
    assert len(table) == 2
    table.failed(far(0, "8.8.8.0"))  # the third waits as a replacement
    assert {e.contact.host for e in table} == {"8.8.8.1", "8.8.8.2"}


def test_node_that_answers_elsewhere_moves_only_when_its_old_place_is_not_fresh() -> None:
    table = RoutingTable(OWN)
    table.seen(far(0, "8.8.8.8"), 1.0)
    table.seen(far(0, "9.9.9.9"), 2.0)
    assert [e.contact.host for e in table] == ["8.8.8.8"]
    table.seen(far(0, "9.9.9.9"), 100.0)
    assert [e.contact.host for e in table] == ["9.9.9.9"]


def test_another_key_with_the_same_id_does_not_replace_the_first() -> None:
    table = RoutingTable(OWN)
    table.seen(contact(5, key=b"a" * 32), 1.0)
    table.seen(contact(5, key=b"b" * 32, port=9), 1000.0)
    assert [e.contact.key for e in table] == [b"a" * 32]


@given(
    st.integers(0, 2**160 - 1),
    st.lists(st.integers(0, 2**160 - 1), max_size=80, unique=True),
    st.integers(0, 2**160 - 1),
    st.integers(1, 30),
)
def test_closest_is_what_sorting_the_whole_table_gives(
    own: int, nodes: list[int], target: int, count: int
) -> None:
    table = RoutingTable(own)
    for n, node in enumerate(nodes):
        table.seen(contact(node), float(n))
    everyone = sorted((e.contact for e in table), key=lambda c: c.id ^ target)
    assert table.closest(target, count) == everyone[:count]


@pytest.mark.parametrize("size", [50, 1000, 20_000])
def test_network_size_is_estimated_within_a_factor_of_two(size: int) -> None:
    random = Random(7)
    estimates = []
    for _ in range(9):
        table = RoutingTable(random.getrandbits(160))
        for node in sorted(
            (random.getrandbits(160) for _ in range(size)), key=lambda n: n ^ table.own_id
        )[:200]:
            table.seen(contact(node), 1.0)
        estimates.append(table.network_size())
    assert size / 2 < sorted(estimates)[4] < size * 2
