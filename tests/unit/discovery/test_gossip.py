"""Gossip between a few nodes: what is exchanged, and what hostile peers achieve."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from aitorrent_discovery.gossip.book import MAX_PER_SUBNET, MAX_RECORDS, Item, Outcome
from aitorrent_discovery.gossip.clocks import ClockWatch
from aitorrent_discovery.gossip.core import EXCHANGES_BURST, FANOUT, Gossip
from aitorrent_discovery.gossip.messages import (
    MAX_ITEMS,
    Hello,
    encode_items,
    read_hello,
    read_items,
)
from aitorrent_discovery.records.bloom import Bloom
from aitorrent_discovery.records.codec import LIFETIME_S, SKEW_S, Refusal, Refused, read_record
from aitorrentd.api import Busy, Denied, Frame, PeerId, ProtocolError, decode_frame
from tests.support.clocks import FakeClock
from tests.support.discovery.records import GLOBAL, NOW, book, gossip, item, peer, raw, record

AFAR = "8.8.8.8"
EMPTY = Bloom.of([], b"saltsalt")


def frame(encoded: bytes) -> Frame:
    return decode_frame(encoded[4:])


def exchange(one: Gossip, other: Gossip) -> None:
    """What the two ends of a stream do, through the frames that they send."""
    me, you = own(one), own(other)
    asked, told = read_hello(frame(one.hello().encode())), read_hello(frame(other.hello().encode()))
    for_one = read_items(frame(encode_items(other.items(me, asked))))
    for_other = read_items(frame(encode_items(one.items(you, told))))
    one.take(you, AFAR, for_one)
    other.take(me, AFAR, for_other)


def own(node: Gossip) -> PeerId:
    record = node.own_record()
    assert record is not None
    return record.peer


def known(node: Gossip) -> set[str]:
    return {heard.record.peer for heard in node.book}


def test_both_ends_of_an_exchange_learn_what_the_other_has() -> None:
    a, b = gossip("a"), gossip("b")
    a.take(peer("x"), AFAR, [item("x", 3)])
    b.take(peer("y"), AFAR, [item("y", 3)])
    exchange(a, b)
    assert known(a) == {peer("b"), peer("x"), peer("y")} - {peer("a")}
    assert known(b) == {peer("a"), peer("x"), peer("y")}


def test_what_both_have_is_not_sent_again() -> None:
    a, b = gossip("a"), gossip("b")
    exchange(a, b)
    sent = a.counts["sent"] + b.counts["sent"]
    assert sent == 2
    exchange(a, b)
    assert a.counts["sent"] + b.counts["sent"] == sent


def test_record_travels_three_hops_and_no_further() -> None:
    nodes = [gossip(name) for name in "abcde"]
    for _ in range(5):
        for one, other in itertools.pairwise(nodes):
            exchange(one, other)
    reached = [peer("a") in known(node) for node in nodes[1:]]
    assert reached == [True, True, True, False]


def test_ttl_inflation_is_refused_and_ends_gossip_with_the_peer() -> None:
    me = gossip()
    with pytest.raises(ProtocolError, match="3 hops left"):
        me.take(peer("liar"), AFAR, [item("victim", 3)])
    assert me.counts["inflated"] == 1
    with pytest.raises(Denied, match="3 hops left"):
        me.admit(peer("liar"))
    assert me.partners([peer("liar"), peer("b")]) == [peer("b")]


@pytest.mark.parametrize("hops", [0, 4, 255, -1])
def test_hops_out_of_range_never_reach_the_book(hops: int) -> None:
    sent = Frame({"hops": [hops], "sizes": [1]}, b"x")
    with pytest.raises(ProtocolError, match="hops must be"):
        read_items(sent)


def test_loop_brings_nothing_new_and_is_counted() -> None:
    me = gossip()
    mine = me.own_record()
    assert mine is not None
    assert me.take(peer("b"), AFAR, [Item(2, mine.raw)] * 3) == []
    assert me.counts["own"] == 3
    first = me.take(peer("b"), AFAR, [item("x")])
    assert (first, me.take(peer("c"), AFAR, [item("x")])) == ([peer("x")], [])
    assert me.counts["known"] == 1


def test_record_is_not_passed_back_to_who_told_it() -> None:
    a, b = gossip("a"), gossip("b")
    a.take(peer("b"), AFAR, [item("x")])
    assert [i.raw for i in a.items(peer("b"), Hello(NOW, EMPTY))] == [
        a.own_record().raw  # type: ignore[union-attr]
    ]
    assert known(b) == set()


def test_forged_record_ends_gossip_with_who_passed_it_on() -> None:
    me = gossip()
    forged = bytearray(record("victim").raw)
    forged[5] ^= 1
    with pytest.raises(Refused, match="forged"):
        me.take(peer("liar"), AFAR, [Item(2, bytes(forged))])
    assert me.counts["forged"] == me.counts["faults"] == 1
    assert len(me.book) == 0
    assert me.standings.trust(peer("liar"), 1000.0) < 1


def test_own_id_from_others_is_dropped() -> None:
    here = book("me")
    outcome, _ = here.take(
        Item(2, record("me", sequence=int(NOW * 1000) + 9).raw), peer("b"), "", 0
    )
    assert outcome is Outcome.OWN
    assert len(here) == 0


def test_highest_sequence_wins_whatever_the_order() -> None:
    here = book()
    old, new = record("x", sequence=5), record("x", sequence=6, addresses=["8.8.4.9:1"])
    outcomes = [here.take(Item(2, r.raw), peer("b"), AFAR, NOW)[0] for r in (old, new, old)]
    assert outcomes == [Outcome.NEW, Outcome.UPDATED, Outcome.STALE]
    heard = here.get(peer("x"))
    assert heard is not None
    assert [address.host for address in heard.places] == ["8.8.4.9"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network": "other"}, Refusal.FOREIGN),
        ({"now": NOW - 7200}, Refusal.EXPIRED),
        ({"now": NOW + 121}, Refusal.FUTURE),
    ],
)
def test_records_that_are_not_current_are_counted_but_no_fault(
    options: dict[str, Any], reason: Refusal
) -> None:
    me = gossip()
    assert me.take(peer("b"), AFAR, [item("x", **options), item("y")]) == [peer("y")]
    assert me.counts[reason.value] == 1
    assert me.counts["faults"] == 0


@pytest.mark.parametrize("skew_s", [-SKEW_S, SKEW_S])
def test_clocks_ten_minutes_apart_still_tell_each_other_where_they_are(skew_s: int) -> None:
    clock = FakeClock()
    clock.epoch += skew_s
    a, b = gossip("a"), gossip("b", clock)
    exchange(a, b)
    assert (known(a), known(b)) == ({peer("b")}, {peer("a")})
    assert a.counts["faults"] == b.counts["faults"] == 0
    # But what others would refuse is not passed on.
    passed = [read_record(i.raw).peer for i in a.items(peer("c"), Hello(NOW, EMPTY))]
    assert (peer("b") in passed) == (skew_s < 0)


def test_saturated_filter_is_refused_before_it_hides_anything() -> None:
    full = {"v": 1, "at": 0, "salt": b"saltsalt", "filter": b"\xff" * 1000}
    with pytest.raises(ProtocolError, match="100% full"):
        read_hello(Frame(full))


def test_thousand_records_of_one_subnet_take_few_places() -> None:
    here = book()
    for i in range(200):
        near = record(f"s{i}", addresses=[f"8.8.{i}.1:8468"])
        here.take(Item(2, near.raw), peer("b"), AFAR, NOW)
    assert len(here) == MAX_PER_SUBNET
    outcome, _ = here.take(item("other", addresses=["9.9.9.9:1"]), peer("b"), AFAR, NOW)
    assert outcome is Outcome.NEW


def test_who_fills_the_book_displaces_only_its_own_records() -> None:
    here = book(max_records=20)
    here.take(item("honest", addresses=["9.9.9.9:1"]), peer("friend"), AFAR, NOW)
    for i in range(60):
        flood = record(f"f{i}", addresses=[f"{11 + i}.8.8.8:1"])
        here.take(Item(2, flood.raw), peer("flooder"), AFAR, NOW)
    assert len(here) == 20
    assert here.get(peer("honest")) is not None
    assert here.get(peer("f59")) is not None


def test_exchanges_are_few_per_peer_and_others_are_unaffected() -> None:
    clock = FakeClock()
    me = gossip("me", clock)
    for _ in range(EXCHANGES_BURST):
        me.admit(peer("b"))
    with pytest.raises(Busy, match="too many gossip exchanges"):
        me.admit(peer("b"))
    me.admit(peer("c"))
    clock.now += 30
    clock.epoch -= 9999  # the time of day may jump
    me.admit(peer("b"))


def test_items_of_one_exchange_are_bounded() -> None:
    me = gossip()
    for i in range(100):
        me.take(peer("b"), AFAR, [item(f"r{i}", addresses=[f"{11 + i}.8.8.8:1"])])
    first = me.items(peer("c"), Hello(NOW, EMPTY))
    assert len(first) == MAX_ITEMS
    second = me.items(peer("c"), Hello(NOW, EMPTY))
    assert not {i.raw for i in first[1:]} & {i.raw for i in second}, "offered again at once"
    with pytest.raises(ProtocolError, match="at most 32"):
        read_items(Frame({"hops": [1] * 33, "sizes": [0] * 33}))


@pytest.mark.parametrize(
    ("header", "tail"),
    [
        ({}, b""),
        ({"hops": [1], "sizes": [5]}, b"four"),
        ({"hops": [1, 1], "sizes": [4]}, b"four"),
        ({"hops": [1], "sizes": [4000]}, b"x" * 4000),
        ({"hops": [1], "sizes": [-4, 8]}, b"four"),
        ({"hops": "1", "sizes": [4]}, b"four"),
    ],
)
def test_frames_whose_sizes_lie_are_refused(header: dict[str, object], tail: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_items(Frame(header, tail))


def test_partners_are_few_and_the_silent_wait_longer_and_longer() -> None:
    clock = FakeClock()
    me = gossip("me", clock)
    everyone = [peer(f"p{i}") for i in range(10)]
    assert len(set(me.partners(everyone))) == FANOUT
    waits = []
    for _ in range(8):
        me.standings.silent(peer("p0"), clock.now)
        waits.append(me.standings.of(peer("p0")).exchange_after - clock.now)
    assert waits[0] <= 60 < waits[2] < waits[5] <= 3600
    assert me.partners([peer("p0")]) == []
    me.standings.answered(peer("p0"))
    assert me.partners([peer("p0")]) == [peer("p0")]


def test_trusted_peers_are_asked_more_often() -> None:
    me = gossip()
    for _ in range(3):
        me.standings.connected(peer("p0"), NOW)
    me.standings.fault(peer("p1"), "lied", -1000.0)
    everyone = [peer(f"p{i}") for i in range(10)]
    asked = [p for _ in range(300) for p in me.partners(everyone)]
    counts = [asked.count(peer(f"p{i}")) for i in range(3)]
    assert counts[0] > 1.5 * counts[2] > 2 * counts[1]


def test_own_record_is_renewed_with_a_higher_sequence_when_half_over_or_moved() -> None:
    clock, addresses = FakeClock(), [GLOBAL]
    me = gossip("me", clock, addresses)
    first = me.own_record()
    assert first is not None and me.own_record() is first
    addresses.append("8.8.4.5:8468")
    moved = me.own_record()
    assert moved is not None and moved.sequence > first.sequence
    assert len(moved.addresses) == 2
    clock.now += LIFETIME_S / 2 + 1
    later = me.own_record()
    assert later is not None and later.sequence > moved.sequence
    addresses.clear()
    assert me.own_record() is None


def test_clock_that_was_ahead_does_not_spoil_later_records() -> None:
    clock = FakeClock()
    clock.epoch += 30 * 86_400
    me = gossip("me", clock)
    ahead = me.own_record()
    clock.epoch -= 30 * 86_400
    back = me.own_record()
    assert ahead is not None and back is not None
    assert back.issued == int(NOW)
    assert back.sequence == int(NOW * 1000), "read_record would refuse one from the future"


def test_restart_continues_the_sequence() -> None:
    me = gossip()
    me.sequence = int(NOW * 1000) + 5
    renewed = me.own_record()
    assert renewed is not None and renewed.sequence == int(NOW * 1000) + 6


def test_clock_is_judged_by_the_median_of_several_peers() -> None:
    watch = ClockWatch()
    watch.note(peer("a"), 600.0)
    watch.note(peer("b"), 601.0)
    assert watch.ahead_s is None
    watch.note(peer("liar"), -1e9)
    assert watch.ahead_s == 600.0


def test_signed_record_with_other_nonsense_is_the_fault_of_who_passes_it_on() -> None:
    me = gossip()
    with pytest.raises(Refused):
        me.take(peer("b"), AFAR, [Item(2, raw("x", caps=7))])
    assert me.counts["malformed"] == 1


def test_book_is_bounded_by_default() -> None:
    assert MAX_RECORDS == 1024
