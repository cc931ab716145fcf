"""Swarms: who is in them, who is found, who expires, and what bounds them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aitorrent_tracker.swarms.memory import TICK_S, Limits, MemoryStorage
from aitorrent_tracker.swarms.peers import Peers
from aitorrent_tracker.swarms.storage import Announce, Counts, Event, Found, Full
from aitorrent_tracker.swarms.wheel import Wheel

HASH = b"h" * 20
TTL_S = 1800.0


def storage(**limits: int) -> MemoryStorage:
    return MemoryStorage(Limits(**limits), ttl_s=TTL_S, now=0.0, draw=random.Random(7).random)


def v4(n: int) -> bytes:
    return bytes((11, n >> 16 & 255, n >> 8 & 255, n & 255))


def v6(n: int) -> bytes:
    return b"\x20\x01" + bytes(12) + n.to_bytes(2, "big")


def announce(
    host: bytes,
    *,
    port: int = 6881,
    event: Event = Event.NONE,
    seed: bool = False,
    wanted: int = 50,
    info_hash: bytes = HASH,
) -> Announce:
    return Announce(info_hash, b"p" * 20, host, port, event, seed, wanted)


def entries(raw: bytes, width: int) -> list[bytes]:
    assert len(raw) % width == 0
    return [raw[at : at + width] for at in range(0, len(raw), width)]


def test_peers_find_each_other_and_never_themselves() -> None:
    swarms = storage()
    assert swarms.announce(announce(v4(1)), 0).peers4 == b""
    assert swarms.announce(announce(v4(2), port=7000), 0).peers4 == v4(1) + b"\x1a\xe1"
    assert swarms.announce(announce(v4(1)), 0).peers4 == v4(2) + b"\x1b\x58"


def test_seed_is_told_leechers_only_and_leecher_gets_both() -> None:
    swarms = storage()
    for n in range(1, 4):
        swarms.announce(announce(v4(n), seed=True), 0)
    swarms.announce(announce(v4(9)), 0)
    assert entries(swarms.announce(announce(v4(1), seed=True), 0).peers4, 6) == [
        v4(9) + b"\x1a\xe1"
    ]
    assert len(entries(swarms.announce(announce(v4(10)), 0).peers4, 6)) == 4


def test_completed_is_counted_once_per_download() -> None:
    swarms = storage()
    swarms.announce(announce(v4(1), event=Event.STARTED), 0)
    for _ in range(3):
        done = swarms.announce(announce(v4(1), event=Event.COMPLETED, seed=True), 0)
    assert done[:3] == Counts(1, 0, 1)
    swarms.announce(announce(v4(2), event=Event.COMPLETED), 0)  # with bytes left: not complete
    assert swarms.counts(HASH) == Counts(1, 1, 1)


def test_stopped_removes_a_peer_and_its_downloads_stay_counted() -> None:
    swarms = storage()
    swarms.announce(announce(v4(1), event=Event.COMPLETED, seed=True), 0)
    found = swarms.announce(announce(v4(1), event=Event.STOPPED, seed=True), 0)
    assert found == Found(0, 0, 1, b"", b"")
    swarms.announce(announce(v4(3), event=Event.STOPPED, port=0, info_hash=b"x" * 20), 0)
    assert swarms.statistics()[:4] == (1, 0, 0, 1)


def test_peers_of_both_families_are_found_the_own_family_first() -> None:
    swarms = storage()
    for n in range(3):
        swarms.announce(announce(v4(n)), 0)
        swarms.announce(announce(v6(n)), 0)
    mixed = swarms.announce(announce(v6(9), wanted=4), 0)
    assert (len(mixed.peers6), len(mixed.peers4)) == (3 * 18, 6)


def test_loopback_peers_are_told_to_loopback_only() -> None:
    swarms = storage()
    here = b"\x7f\0\0\x01"
    swarms.announce(announce(here), 0)
    assert swarms.announce(announce(v4(1)), 0).peers4 == b""
    assert len(swarms.announce(announce(here, port=1), 0).peers4) == 12


def test_every_peer_is_found_about_equally_often() -> None:
    swarms = storage(peers_per_subnet=1000)
    for n in range(100):
        swarms.announce(announce(v4(n)), 0)
    seen = dict.fromkeys((v4(n) + b"\x1a\xe1" for n in range(100)), 0)
    for _ in range(2000):
        found = entries(swarms.announce(announce(v4(0), wanted=10), 0).peers4, 6)
        assert len(found) == len(set(found)) == 10
        for entry in found:
            seen[entry] += 1
    del seen[v4(0) + b"\x1a\xe1"]
    assert min(seen.values()) > 120 and max(seen.values()) < 290


def test_silent_peer_expires_and_one_that_announces_stays() -> None:
    swarms = storage()
    swarms.announce(announce(v4(1)), 0)
    swarms.announce(announce(v4(2)), 0)
    swarms.announce(announce(v4(2)), 1000)
    swarms.expire(TTL_S)
    assert swarms.counts(HASH).leechers == 2
    swarms.expire(TTL_S + 2 * TICK_S)
    assert swarms.counts(HASH).leechers == 1
    swarms.expire(1000 + TTL_S + 2 * TICK_S)
    assert swarms.statistics() == (0, 0, 0, 0, 0, 2)


def test_after_a_long_pause_everything_that_is_due_expires_at_once() -> None:
    swarms = storage()
    for n in range(50):
        swarms.announce(announce(v4(n), info_hash=bytes([n]) * 20), 30.0 * n)
    swarms.expire(10 * TTL_S)
    assert swarms.statistics().swarms == 0


def test_limits_bound_swarms_peers_and_networks() -> None:
    swarms = storage(swarms=2, peers=40, peers_per_swarm=30, peers_per_subnet=3)
    for n in range(10):
        found = swarms.announce(announce(v4(n)), 0)
    assert found.leechers == 3 and len(found.peers4) == 18  # refused, yet served
    for n in range(100):
        swarms.announce(announce(v4(n << 8)), 0)
    assert swarms.counts(HASH).leechers == 30
    for n in range(100):
        swarms.announce(announce(v4(n << 8), info_hash=b"i" * 20), 0)
    assert swarms.statistics().leechers == 40
    with pytest.raises(Full, match="^$"):
        swarms.announce(announce(v4(1), info_hash=b"j" * 20), 0)


def test_private_networks_have_no_limit_of_their_own() -> None:
    swarms = storage(peers_per_subnet=3)
    for n in range(20):
        swarms.announce(announce(bytes((10, 0, 0, n))), 0)
    assert swarms.counts(HASH).leechers == 20


def test_one_ipv6_subnet_shares_a_limit_however_many_addresses_it_has() -> None:
    swarms = storage(peers_per_subnet=3)
    for n in range(20):
        swarms.announce(announce(b"\x24\x04\x68" + bytes(4) + n.to_bytes(9, "big")), 0)
    assert swarms.counts(HASH).leechers == 3


def test_prefix_is_counted_at_the_start_of_addresses_only() -> None:
    peers = Peers(6)
    peers.add(bytes((1, 1, 1, 1, 1, 1)), b"a" * 20, 0)
    peers.add(bytes((1, 1, 1, 1, 1, 2)), b"b" * 20, 0)
    peers.add(bytes((9, 1, 1, 1, 1, 1)), b"c" * 20, 0)
    assert peers.count_prefix(bytes((1, 1, 1)), 10) == 2
    assert peers.count_prefix(bytes((1, 1, 1)), 1) == 1


def test_wheel_forgets_nothing_that_is_further_away_than_it_is_long() -> None:
    wheel = Wheel(4, 0)
    wheel.add(b"far", 100)
    wheel.add(b"past", -5)
    assert list(wheel.due(1)) == [b"past"]
    assert list(wheel.due(3)) == [b"far"] and len(wheel) == 0


def test_leecher_alone_among_seeds_is_told_as_many_of_them_as_it_wants() -> None:
    swarms = storage()
    for n in (1, 3):
        swarms.announce(announce(v4(n), seed=True, wanted=0), 0.0)
    found = swarms.announce(announce(v4(5), seed=False, wanted=2), 0.0)
    assert sorted(entries(found.peers4, 6)) == sorted(v4(n) + b"\x1a\xe1" for n in (1, 3))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 11),
            st.sampled_from(Event),
            st.booleans(),
            st.integers(0, 9),
            st.integers(0, 900),
        ),
        max_size=80,
    )
)
def test_swarm_agrees_with_a_plain_model(steps: list[tuple[int, Event, bool, int, int]]) -> None:
    swarms = storage()
    model: dict[bytes, tuple[bool, float]] = {}
    now = 0.0
    for n, event, seed, wanted, pause in steps:
        now += pause
        swarms.expire(now)
        host = v4(n) if n % 2 else v6(n)
        entry = host + b"\x1a\xe1"
        found = swarms.announce(announce(host, event=event, seed=seed, wanted=wanted), now)
        model.pop(entry, None)
        sure = {e for e, (_, at) in model.items() if now - at < TTL_S}
        maybe = {e for e, (_, at) in model.items() if now - at < TTL_S + 2 * TICK_S}
        if event is not Event.STOPPED:
            model[entry] = (seed, now)
        peers = entries(found.peers4, 6) + entries(found.peers6, 18)
        assert len(peers) == len(set(peers)) <= wanted
        assert set(peers) <= maybe and entry not in peers
        if event is not Event.STOPPED and not seed and wanted >= len(maybe):
            assert sure <= set(peers)
        own = event is not Event.STOPPED
        assert len(sure) + own <= found.seeds + found.leechers <= len(maybe) + own
