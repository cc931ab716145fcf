"""Bans of peers, addresses and networks."""

from __future__ import annotations

import pytest

from aitorrent_transport.protection.bans import MEMORY_S, Ban, Bans, parse_subject
from aitorrentd.api import InvalidParams

PEER = "12D3KooWEm7uV2BNFTjUJ7XxLm5kDq3vPZfBxjNBRYsGyJWnN3Zc"


def ban(subject: str, until: float, *, times: int = 1, by_operator: bool = False) -> Ban:
    return Ban(subject, until, "port scans", times, by_operator)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        (PEER, PEER),
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7/24", "203.0.113.0/24"),
        ("203.0.113.7/32", "203.0.113.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8:1:2::9/64", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_subject_is_an_id_an_address_or_a_network(text: str, subject: str) -> None:
    assert parse_subject(text) == subject


@pytest.mark.parametrize(
    "text", ["", "nobody", "0.0.0.0/0", "10.0.0.0/7", "::/0", "1.2.3", PEER[:-1]]
)
def test_what_is_no_subject_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        parse_subject(text)


def test_ban_ends_after_its_time() -> None:
    bans = Bans()
    bans.add(ban(PEER, 600.0))
    assert bans.of(PEER, 599.0) is not None
    assert bans.of(PEER, 600.0) is None
    assert len(bans) == 0


def test_address_is_banned_by_itself_or_by_its_network() -> None:
    bans = Bans()
    bans.add(ban("203.0.113.0/24", 100.0))
    bans.add(ban("2001:db8:1:2::/64", 100.0))
    bans.add(ban("198.51.100.9", 100.0))
    assert bans.of_address("203.0.113.200", 0.0) is not None
    assert bans.of_address("::ffff:203.0.113.200", 0.0) is not None
    assert bans.of_address("2001:db8:1:2:3::4%eth0", 0.0) is not None
    assert bans.of_address("198.51.100.9", 0.0) is not None
    assert bans.of_address("198.51.100.8", 0.0) is None
    assert bans.of_address("203.0.114.1", 0.0) is None
    assert bans.of_address("", 0.0) is None
    assert bans.of_address("203.0.113.200", 100.0) is None


def test_repeated_bans_are_counted_for_a_day() -> None:
    bans = Bans()
    bans.add(ban(PEER, 100.0, times=2))
    assert bans.times(PEER, 50.0) == 2
    assert bans.times(PEER, 101.0) == 2
    assert bans.times(PEER, 100.0 + MEMORY_S) == 0


def test_lifted_ban_is_forgotten() -> None:
    bans = Bans()
    bans.add(ban("203.0.113.0/24", 100.0))
    assert bans.lift("203.0.113.0/24")
    assert not bans.lift("203.0.113.0/24")
    assert bans.of_address("203.0.113.1", 0.0) is None
    assert bans.times("203.0.113.0/24", 0.0) == 0


def test_full_list_drops_the_shortest_ban_but_no_operator_ban() -> None:
    bans = Bans(max_bans=2)
    bans.add(ban("192.0.2.1", 10.0, by_operator=True))
    bans.add(ban("192.0.2.2", 500.0))
    bans.add(ban("192.0.2.3", 400.0))
    assert [b.subject for b in bans.current(0.0)] == ["192.0.2.3", "192.0.2.1"]
    assert bans.count == 3
