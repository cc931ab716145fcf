"""How many peers a limited seeder serves: one that passes all on, or as many as use its limit."""

from __future__ import annotations

import pytest

from aitorrent_seeding.session.slots import Crowd, Slots, Standing

LIMIT = 8_000_000


@pytest.mark.parametrize(
    ("peer_bps", "peers", "expected"),
    [
        (50_000_000, 8, 1),
        (4_000_000, 8, 2),
        (1_000_000, 20, 7),
        (100_000, 200, 50),
        (1_000_000, 3, 4),
        (0, 0, 1),
    ],
    ids=["fast", "half as fast", "slow", "very slow", "three slow", "none"],
)
def test_as_few_are_served_as_use_the_limit(peer_bps: int, peers: int, expected: int) -> None:
    slots = Slots()
    for _ in range(30):
        served = min(slots.count, peers)
        slots.look(limit_bps=LIMIT, sent_bps=min(LIMIT, served * peer_bps), served=served, crowd={})
    assert slots.count == expected


def test_look_says_whether_the_number_changed() -> None:
    slots = Slots()
    assert not slots.look(limit_bps=LIMIT, sent_bps=LIMIT, served=1, crowd={})
    assert slots.look(limit_bps=LIMIT, sent_bps=LIMIT // 4, served=1, crowd={})
    assert slots.count == 2


def test_peers_that_only_just_began_are_no_reason_to_serve_more() -> None:
    """What was sent was little because nobody asked for more before."""
    slots = Slots()
    for served in (0, 1, 0, 1):
        assert not slots.look(limit_bps=LIMIT, sent_bps=LIMIT // 9, served=served, crowd={})
    assert slots.count == 1


def test_number_that_uses_the_limit_is_kept_for_a_while() -> None:
    """Three peers use it up together, and two of them do not."""
    slots, counts = Slots(), []
    for _ in range(30):
        sent_bps = slots.count * LIMIT // 3
        slots.look(limit_bps=LIMIT, sent_bps=sent_bps, served=slots.count, crowd={})
        counts.append(slots.count)
    assert counts.count(2) <= 3
    assert 1 not in counts[1:]


def crowd_of(served: dict[str, int], waiting: dict[str, int]) -> Crowd:
    """Peers by name, with the pieces that they have."""
    crowd: Crowd = {name: Standing(pieces, is_served=True) for name, pieces in served.items()}
    crowd.update({name: Standing(pieces, is_served=False) for name, pieces in waiting.items()})
    return crowd


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ((10, 9, 9), 1),
        ((10, 9, 2), 2),
        ((10, 0, 0), 2),
        ((1, 0, 0), 1),
    ],
    ids=["all get them", "one gets few", "none gets any", "too early to tell"],
)
def test_more_are_served_while_peers_that_wait_fall_behind(
    pieces: tuple[int, int, int], expected: int
) -> None:
    """Those that are served pass on less than they get; or a peer wants other pieces."""
    slots = Slots()
    a, b, c = pieces
    for crowd in (
        crowd_of({"a": 5}, {"b": 3, "c": 3}),
        crowd_of({"a": 5 + a}, {"b": 3 + b, "c": 3 + c}),
    ):
        slots.look(limit_bps=LIMIT, sent_bps=LIMIT, served=1, crowd=crowd)
    assert slots.count == expected


def test_peers_that_come_or_begin_to_be_served_have_not_fallen_behind() -> None:
    slots = Slots()
    for crowd in (
        crowd_of({"a": 5}, {"b": 5}),
        crowd_of({"a": 15, "b": 5}, {"c": 0}),
        crowd_of({"b": 15}, {"a": 15, "d": 0}),
    ):
        assert not slots.look(limit_bps=LIMIT, sent_bps=LIMIT, served=1, crowd=crowd)


def test_number_that_left_nobody_behind_is_kept_for_a_while() -> None:
    slots, counts = Slots(), []
    have = {"a": 0, "b": 0, "c": 0}
    for _ in range(24):
        names = sorted(have)[: slots.count]
        for name in have:
            have[name] += 10 if name in names or len(names) > 1 else 1
        waiting = {name: count for name, count in have.items() if name not in names}
        crowd = crowd_of({name: have[name] for name in names}, waiting)
        slots.look(limit_bps=LIMIT, sent_bps=LIMIT, served=slots.count, crowd=crowd)
        counts.append(slots.count)
    assert counts[2] == 2
    assert counts.count(1) <= 5
