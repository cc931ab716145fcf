"""Which peers have an outdated list of this node's addresses."""

from __future__ import annotations

from aitorrent_transport.protocols.addresses import AddressNews
from aitorrentd.api import PeerId

PEER = PeerId("peer")
OTHER = PeerId("other")


def settled(*addresses: str) -> AddressNews:
    news = AddressNews(0)
    assert not news.look(addresses, 0)
    assert not news.look(addresses, 5)
    return news


def test_change_is_told_once_two_looks_agree() -> None:
    news = settled("a")
    news.peer_up(PEER, ["a"])
    assert not news.look(["a", "b"], 10)
    assert news.outdated() == []
    assert news.look(["a", "b"], 15)
    assert news.outdated() == [PEER]
    news.told(PEER, news.current)
    assert not news.look(["a", "b"], 20)
    assert news.outdated() == []


def test_address_that_goes_before_it_settles_is_never_told() -> None:
    news = settled("a")
    news.peer_up(PEER, ["a"])
    for i in range(4):
        assert not news.look(["a", "b"], 10 + 10 * i)
        assert not news.look(["a"], 15 + 10 * i)
    assert news.outdated() == []


def test_peer_that_was_greeted_with_an_older_or_newer_list_gets_the_settled_one() -> None:
    news = settled("a")
    news.look(["a", "b"], 10)
    news.peer_up(PEER, ["a"])
    news.peer_up(OTHER, ["a", "b"])
    assert news.look(["a", "b"], 15)
    assert news.outdated() == [PEER]


def test_addresses_that_come_and_go_for_ever_are_told_at_a_bounded_pace() -> None:
    news = settled("a")
    tells, now = 0, 10.0
    while now < 3600:
        for addresses in (["a", "b"], ["a", "b"], ["a"], ["a"]):
            tells += news.look(addresses, now)
            now += 5
    assert 100 < tells <= 4 + 3600 / 30


def test_peers_that_left_are_forgotten() -> None:
    news = settled("a")
    news.peer_up(PEER, ["b"])
    news.peer_down(PEER)
    news.told(PEER, ["c"])
    assert news.outdated() == []
