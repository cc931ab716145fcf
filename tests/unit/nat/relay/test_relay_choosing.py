"""Which relays a node chooses, and how long it leaves failed ones alone."""

from __future__ import annotations

from aitorrent_nat.relay.choosing import (
    FIRST_WAIT_S,
    MAX_WAIT_S,
    Candidate,
    Setbacks,
    choose,
)
from aitorrentd.api import PeerId


def candidate(name: str, host: str, rtt_s: float | None) -> Candidate:
    return Candidate(PeerId(name), host, rtt_s)


def names(chosen: list[Candidate]) -> list[str]:
    return [each.peer for each in chosen]


def test_near_relays_come_first() -> None:
    all_of_them = [
        candidate("unknown", "192.0.2.1", None),
        candidate("far", "203.0.113.1", 0.2),
        candidate("near", "198.51.100.1", 0.01),
    ]
    assert names(choose(all_of_them, (), 3)) == ["near", "far", "unknown"]
    assert names(choose(all_of_them, (), 1)) == ["near"]


def test_two_relays_are_taken_from_two_networks() -> None:
    near = [candidate(f"n{i}", f"198.51.{i}.1", 0.01) for i in range(3)]
    far = candidate("far", "203.0.113.1", 0.3)
    assert names(choose([*near, far], (), 2)) == ["n0", "far"]
    assert names(choose([*near, far], ["198.51.100.9"], 1)) == ["far"]
    assert names(choose([*near, far], ["203.0.113.9"], 1)) == ["n0"]


def test_relays_of_one_network_are_better_than_none() -> None:
    near = [candidate(f"n{i}", "198.51.100.1", 0.01) for i in range(3)]
    assert names(choose(near, (), 2)) == ["n0", "n1"]
    assert choose([], (), 2) == []


def test_a_failed_relay_is_left_alone_longer_each_time() -> None:
    setbacks = Setbacks(lambda: 0.5)
    relay = PeerId("r")
    assert setbacks.may_try(relay, 0.0)
    waits = [setbacks.failed(relay, 0.0) for _ in range(12)]
    assert waits == sorted(waits)
    assert FIRST_WAIT_S / 2 <= waits[0] <= FIRST_WAIT_S
    assert waits[-1] <= MAX_WAIT_S
    assert not setbacks.may_try(relay, waits[-1] - 1)
    assert setbacks.may_try(relay, waits[-1])
    setbacks.worked(relay)
    assert setbacks.may_try(relay, 0.0)
    assert setbacks.failed(relay, 0.0, 60.0) == 60.0
