"""How many bytes a relay passes: by rate, by the hour, and for all together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_nat.relay import budgets as module
from aitorrent_nat.relay.budgets import MIN_PASS_BYTES, SLOT_S, SLOTS, Budgets, Flow, Hourly
from aitorrentd.api import Busy, PeerId

MIB = 2**20
A, B, C = PeerId("a"), PeerId("b"), PeerId("c")


def budgets(rate: int = 2 * MIB, hour: int = 256 * MIB, total: int = 1000 * MIB) -> Budgets:
    return Budgets(rate, hour, total, 0.0)


@given(st.lists(st.tuples(st.floats(0, 2000), st.integers(0, 400)), max_size=60))
def test_no_hour_ever_has_more_bytes_than_its_limit(steps: list[tuple[float, int]]) -> None:
    hourly, now = Hourly(1000), 0.0
    passed: list[tuple[float, int]] = []
    for pause, wanted in steps:
        now += pause
        n = min(wanted, hourly.left(now))
        hourly.spend(n, now)
        passed.append((now, n))
        assert sum(n for at, n in passed if at > now - 3600) <= 1000


def test_bytes_are_forgotten_after_little_more_than_an_hour() -> None:
    hourly = Hourly(1000)
    hourly.spend(1000, 10.0)
    assert hourly.left(3600) == 0
    wait_s = hourly.wait_s(3600)
    assert 0 < wait_s <= SLOT_S
    assert hourly.left(3600 + wait_s) == 1000
    assert SLOTS * SLOT_S < 3600 + 2 * SLOT_S


@given(st.lists(st.floats(0, 1), max_size=50))
def test_a_flow_never_exceeds_its_rate_and_one_second(pauses: list[float]) -> None:
    flow, now, passed = Flow(1e6, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        n = flow.left(now)
        flow.spend(n, now)
        passed += n
    assert passed <= 1e6 * (now + 1)


def test_many_circuits_of_one_pair_share_one_budget() -> None:
    """Appendix C, attack 18: the byte limit cannot be bypassed with many circuits."""
    all_pairs = budgets(hour=10 * MIB)
    circuits = [all_pairs.take_up(A, B, 0.0) for _ in range(8)]
    circuits += [all_pairs.take_up(B, A, 0.0) for _ in range(8)]  # whoever opened them
    assert len({id(circuit) for circuit in circuits}) == 1
    now, passed = 0.0, 0
    while True:
        for circuit in circuits:
            n = all_pairs.left(circuit, now)
            all_pairs.spend(circuit, n, now)
            passed += n
        wait_s = all_pairs.wait_s(circuits[0], now)
        if wait_s is None:
            break
        now += wait_s + 1e-9
    assert passed == 10 * MIB
    assert now >= 3.9  # 2 MiB at once, the rest at 2 MiB/s
    for circuit in circuits:
        all_pairs.give_up(circuit)
    with pytest.raises(Busy, match=r"try again in \d+ min"):
        all_pairs.take_up(A, B, now)
    all_pairs.take_up(A, C, now)  # another pair has its own
    all_pairs.take_up(A, B, now + SLOTS * SLOT_S)


def test_the_hour_outlives_the_circuits() -> None:
    all_pairs = budgets(hour=MIB)
    first = all_pairs.take_up(A, B, 0.0)
    all_pairs.spend(first, MIB - 10, 0.0)
    all_pairs.give_up(first)
    second = all_pairs.take_up(B, A, 5.0)
    assert all_pairs.left(second, 5.0) == 10


def test_all_pairs_together_have_a_limit() -> None:
    all_pairs = budgets(rate=2 * MIB, total=3 * MIB)
    one, two = all_pairs.take_up(A, B, 0.0), all_pairs.take_up(A, C, 0.0)
    all_pairs.spend(one, all_pairs.left(one, 0.0), 0.0)
    assert all_pairs.left(two, 0.0) == MIB
    all_pairs.spend(two, MIB, 0.0)
    assert all_pairs.left(two, 0.0) == 0
    assert all_pairs.wait_s(two, 0.0) == pytest.approx(MIN_PASS_BYTES / (3 * MIB))


def test_idle_pairs_make_room_and_busy_ones_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 2)
    all_pairs = budgets()
    used = all_pairs.take_up(A, B, 0.0)
    all_pairs.spend(used, 100 * MIB, 0.0)
    all_pairs.give_up(used)
    open_circuit = all_pairs.take_up(A, C, 0.0)
    with pytest.raises(Busy, match="2 pairs of nodes, its limit"):
        all_pairs.take_up(B, C, 0.0)
    later = SLOTS * SLOT_S + 1
    all_pairs.take_up(B, C, later)
    assert all_pairs.take_up(A, C, later) is open_circuit
