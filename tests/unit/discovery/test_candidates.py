"""Whom a node dials next, and what a restart changes."""

from __future__ import annotations

import random

from aitorrent_discovery.gossip.book import Item
from aitorrent_discovery.peers.candidates import MAX_ANCHORS, MAX_LAN, Candidates
from aitorrent_discovery.peers.standing import DIAL_CAP_S, Standings
from aitorrentd.api import PeerId
from aitorrentd.api.network.addresses import Address, parse_address
from tests.support.discovery.records import NOW, book, peer, record

START = 1000.0


def candidates() -> Candidates:
    return Candidates(book(), Standings(random.Random(1).random))


def hear(found: Candidates, seed: str, address: str) -> None:
    heard = record(seed, addresses=[address])
    found._book.take(Item(2, heard.raw), peer("teller"), "8.8.8.8", NOW)


def place(text: str, seed: str) -> tuple[Address, ...]:
    return (parse_address(text).of(peer(seed)),)


def chosen(
    found: Candidates,
    limit: int = 99,
    connected: tuple[PeerId, ...] = (),
    hosts: tuple[str, ...] = (),
) -> list[tuple[PeerId, str]]:
    picked = found.choose(connected, hosts, START, limit)
    return [(candidate.peer, candidate.kind) for candidate in picked]


def test_poisoned_store_cannot_surround_a_node_that_restarts() -> None:
    """Appendix case: a thousand lies were stored, and three peers that were really reached."""
    found = candidates()
    for i in range(1000):
        hear(found, f"lie{i}", f"{11 + i % 200}.{i // 200}.3.4:8468")
    for i in range(3):
        found.dialled(peer(f"friend{i}"), place(f"9.{i}.9.9:8468", f"friend{i}"))
    friends = {peer(f"friend{i}") for i in range(3)}
    assert {p for p, _ in chosen(found, 8)} == friends, "nothing heard before each was tried"
    found._standings.not_connected(peer("friend0"), START)
    found._standings.connected(peer("friend1"), NOW)
    assert chosen(found, 8, (peer("friend1"),)) == [(peer("friend2"), "dialled")]
    found._standings.not_connected(peer("friend2"), START)
    later = chosen(found, 8, (peer("friend1"),))
    assert len(later) == 8 and {kind for _, kind in later} == {"heard"}


def test_local_network_comes_first_then_peers_dialled_before_then_the_heard() -> None:
    found = candidates()
    hear(found, "heard", "9.1.1.1:1")
    found.on_lan(peer("lan"), place("192.168.1.5:1", "lan"))
    found.dialled(peer("old"), place("9.2.1.1:1", "old"))
    found._standings.of(peer("old")).tried = True
    assert chosen(found) == [
        (peer("lan"), "lan"),
        (peer("old"), "dialled"),
        (peer("heard"), "heard"),
    ]
    assert chosen(found, 1) == [(peer("lan"), "lan")]
    found.off_lan(peer("lan"))
    assert peer("lan") not in dict(chosen(found))


def test_connected_and_waiting_peers_are_not_dialled() -> None:
    found = candidates()
    for name in "abc":
        hear(found, name, f"9.{ord(name)}.1.1:1")
    found._standings.not_connected(peer("b"), START)
    assert chosen(found, connected=(peer("a"),)) == [(peer("c"), "heard")]


def test_dials_to_one_peer_wait_longer_and_longer() -> None:
    standings = Standings(lambda: 0.5)
    waits = []
    for _ in range(12):
        standings.not_connected(peer("a"), START)
        waits.append(standings.of(peer("a")).dial_after - START)
    assert waits == sorted(waits)
    assert waits[0] < 15 < 600 < waits[-1] <= DIAL_CAP_S
    standings.connected(peer("a"), NOW)
    standings.not_connected(peer("a"), START)
    assert standings.of(peer("a")).dial_after - START == waits[0]


def test_few_connections_lead_into_one_public_subnet_and_any_number_into_a_private_one() -> None:
    found = candidates()
    for i in range(10):
        hear(found, f"x{i}", f"9.9.{i}.1:1")
        found.on_lan(peer(f"lan{i}"), place(f"192.168.1.{i + 1}:1", f"lan{i}"))
    kinds = [kind for _, kind in chosen(found)]
    assert (kinds.count("heard"), kinds.count("lan")) == (2, 10)
    kinds = [kind for _, kind in chosen(found, hosts=("9.9.7.7", "9.9.8.8"))]
    assert kinds.count("heard") == 0


def test_what_is_remembered_is_bounded() -> None:
    found = candidates()
    for i in range(2 * MAX_ANCHORS):
        found.dialled(PeerId(f"p{i}"), place("9.9.9.9:1", "x"))
        found.on_lan(PeerId(f"l{i}"), place("10.0.0.1:1", "x"))
    assert len(found.anchors) == MAX_ANCHORS
    assert len(found.lan) == MAX_LAN
    assert found.anchors[-1][0] == f"p{2 * MAX_ANCHORS - 1}"


def test_lan_address_of_a_peer_replaces_the_one_it_had() -> None:
    found = candidates()
    found.on_lan(peer("a"), place("192.168.1.5:1", "a"))
    found.on_lan(peer("a"), place("192.168.1.6:1", "a"))
    (candidate,) = found.choose((), (), START, 9)
    assert candidate.addresses[0].host == "192.168.1.6"
