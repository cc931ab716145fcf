"""Own records: numbered on, put again, deleted; between nodes with real signatures."""

from __future__ import annotations

from typing import Any

from aitorrent_dht.core.contact import contact_of
from aitorrent_dht.core.record import Kind, name_digest, provider_key, value_key
from aitorrent_dht.core.state import Tuning
from aitorrent_dht.wire.messages import Reply
from tests.support.dht.wired import EPOCH_S, Wired, deliver, meet

KEY = provider_key("thing")
TARGET = int.from_bytes(KEY[:20], "big")


def network(n: int = 4, **tuning: Any) -> list[Wired]:
    nodes = [Wired(i + 1, tuning=Tuning(**tuning)) for i in range(n)]
    meet(*nodes)
    return nodes


def put(nodes: list[Wired], who: Wired, value: bytes, now: float = 1.0) -> list[Any]:
    done: list[Any] = []
    who.node.publishing.put(Kind.PROVIDER, KEY, value, now, on_stored=done.append)
    deliver(who.sent(), *nodes, now=now)
    return done


def values(nodes: list[Wired], who: Wired, now: float = 2.0) -> list[bytes]:
    found: list[Any] = []
    who.node.finding.get(KEY, TARGET, now, found.append)
    deliver(who.sent(), *nodes, now=now)
    return sorted(r.value for r in found[0].records)


def test_what_several_nodes_publish_under_one_key_others_find() -> None:
    nodes = network()
    a, b, c, d = nodes
    assert [s.count for s in put(nodes, a, b"a")] == [3]
    put(nodes, b, b"b")
    assert values(nodes, c) == values(nodes, d) == [b"a", b"b"]


def test_newer_value_replaces_the_older_one_everywhere() -> None:
    nodes = network()
    put(nodes, nodes[0], b"old", 1.0)
    put(nodes, nodes[0], b"new", 2.0)
    assert values(nodes, nodes[2]) == [b"new"]


def test_withdrawn_record_is_gone_and_stays_gone() -> None:
    nodes = network()
    a, b, c, _ = nodes
    put(nodes, a, b"a")
    old = b.node.state.store.get(KEY, EPOCH_S)
    assert a.node.publishing.withdraw(KEY, 2.0)
    deliver(a.sent(), *nodes, now=2.0)
    assert values(nodes, c) == []
    assert len(a.node.publishing) == 0
    assert not a.node.publishing.withdraw(KEY, 3.0)
    # Somebody stores the deleted record again.
    b.node.finding.put(old[0], 4.0, lambda stored, now: None)
    deliver(b.sent(), *nodes, now=4.0)
    assert values(nodes, c, 5.0) == []


def test_node_that_lost_its_count_counts_on_from_the_record_that_it_is_shown() -> None:
    nodes = network()
    a = nodes[0]
    a.node.state.epoch_offset_s += 300.0  # its clock is ahead
    put(nodes, a, b"from the future", 1.0)
    a.node.state.epoch_offset_s -= 300.0
    a.node.publishing._own.clear()
    assert [s.count for s in put(nodes, a, b"now", 5.0)] == [3]
    assert values(nodes, nodes[2], 7.0) == [b"now"]


def test_records_are_put_again_before_they_end_also_at_nodes_that_came_later() -> None:
    nodes = network(3)
    put(nodes, nodes[0], b"v")
    late = Wired(9)
    late.node.add_places([nodes[0].place], 100.0)
    nodes.append(late)
    deliver(late.sent(), *nodes, now=100.0)
    now = 2 * 3600.0
    nodes[0].node.publishing.run(now)
    deliver(nodes[0].sent(), *nodes, now=now)
    assert [r.value for r in late.node.state.store.get(KEY, EPOCH_S + now)] == [b"v"]
    expires = nodes[0].node.publishing.records()[0].expires
    assert expires > EPOCH_S + now + 3600


def test_record_put_while_nobody_is_there_is_put_when_somebody_comes() -> None:
    alone, first = Wired(1), Wired(2)
    done = put([alone], alone, b"early")
    assert done == []
    alone.node.add_places([first.place], 5.0)
    deliver(alone.sent(), alone, first, now=5.0)
    assert [s.count for s in done] == [1]
    assert [r.value for r in first.node.state.store.get(KEY, EPOCH_S)] == [b"early"]


def searched(node: Wired, now: float = 2.0) -> list[Any]:
    found: list[Any] = []
    node.node.finding.get(KEY, TARGET, now, found.append)
    return found


def test_answer_with_the_record_is_of_use_although_nodes_were_cut_from_it() -> None:
    keeper, seeker = Wired(1), Wired(2)
    meet(keeper, seeker)
    for i in range(40):
        where = contact_of(i.to_bytes(32, "big"), f"127.0.1.{i}", 8468)
        keeper.node.state.table.seen(where, 1.0)
    record = keeper.record("thing", bytes(640))
    keeper.node.state.store.put(record, "127.0.0.1", until=EPOCH_S + 99, epoch_s=EPOCH_S)
    entry = seeker.node.state.table.get(keeper.node.id)
    assert entry is not None
    entry.token = b""  # as at the first contact: the answer may be no longer than the request
    searched(seeker)
    (first,) = seeker.sent()
    (raw,) = keeper.receive(first.raw, seeker.place, 2.0)
    reply = seeker.codec.decode(raw.raw)
    assert isinstance(reply, Reply) and reply.is_cut and reply.records
    asked = seeker.receive(raw.raw, keeper.place, 2.0)
    assert asked and keeper.place not in [each.to for each in asked]


def test_node_that_keeps_the_record_needs_one_answer_from_another() -> None:
    nodes = network()
    put(nodes, nodes[0], b"v")
    found = searched(nodes[1])
    assert nodes[1].node.state.store.get(KEY, EPOCH_S)
    asked = nodes[1].sent()
    assert not found
    deliver(asked[:1], *nodes)
    assert [r.value for r in found[0].records] == [b"v"]


def test_nodes_that_a_search_met_are_greeted_after_it() -> None:
    keeper, seeker = Wired(1), Wired(2)
    seeker.node.state.table.seen(contact_of(keeper.key, *keeper.place), 1.0)
    searched(seeker)
    deliver(seeker.sent(), keeper, seeker, now=2.0)
    assert keeper.node.contacts() == []
    seeker.node.run(3.1)
    deliver(seeker.sent(), keeper, seeker, now=3.1)
    assert [c.key for c in keeper.node.contacts()] == [seeker.key]


def test_value_belongs_to_its_publisher_alone() -> None:
    nodes = network()
    a, b, c, _ = nodes
    name = name_digest("greeting")
    key = value_key(a.key, name)
    a.node.publishing.put(Kind.VALUE, key, b"mine", 1.0, name=name)
    deliver(a.sent(), *nodes)
    b.node.publishing.put(Kind.VALUE, key, b"not mine", 1.0, name=name)
    deliver(b.sent(), *nodes)
    found: list[Any] = []
    c.node.finding.get(key, int.from_bytes(key[:20], "big"), 2.0, found.append)
    deliver(c.sent(), *nodes)
    assert [(r.publisher, r.value) for r in found[0].records] == [(a.key, b"mine")]


def test_more_records_than_fit_a_datagram_are_fetched_page_by_page() -> None:
    nodes = network(12)
    for i, node in enumerate(nodes[:10]):
        put(nodes, node, bytes([i]) * 600)
    assert values(nodes, nodes[11]) == [bytes([i]) * 600 for i in range(10)]
