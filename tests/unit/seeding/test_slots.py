"""How many peers a limited seeder serves: few fast ones, or as many slow ones as use its limit."""

from __future__ import annotations

import pytest

from aitorrent_seeding.session.slots import Slots

LIMIT = 8_000_000


@pytest.mark.parametrize(
    ("peer_bps", "peers", "expected"),
    [
        (50_000_000, 8, 2),
        (4_000_000, 8, 2),
        (1_000_000, 20, 7),
        (100_000, 200, 50),
        (1_000_000, 3, 4),
        (0, 0, 2),
    ],
    ids=["fast", "fast enough", "slow", "very slow", "three slow", "none"],
)
def test_as_few_are_served_as_use_the_limit(peer_bps: int, peers: int, expected: int) -> None:
    slots = Slots()
    for _ in range(30):
        served = min(slots.count, peers)
        slots.look(limit_bps=LIMIT, sent_bps=min(LIMIT, served * peer_bps), served=served)
    assert slots.count == expected


def test_look_says_whether_the_number_changed() -> None:
    slots = Slots()
    assert not slots.look(limit_bps=LIMIT, sent_bps=LIMIT, served=2)
    assert slots.look(limit_bps=LIMIT, sent_bps=LIMIT // 4, served=2)
    assert slots.count == 3


def test_number_that_uses_the_limit_is_kept_for_a_while() -> None:
    """Three peers use it up together, and two of them do not."""
    slots, counts = Slots(), []
    for _ in range(30):
        slots.look(limit_bps=LIMIT, sent_bps=slots.count * LIMIT // 3, served=slots.count)
        counts.append(slots.count)
    assert counts.count(2) <= 3
