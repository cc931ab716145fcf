"""How many bytes two nodes may send through this relay: per second, per hour, and all together.

A budget belongs to a pair of nodes, not to a circuit: circuits of one pair share it, whoever of the
two opened them. Both directions count. No I/O, and no clock: callers pass `now` in seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from aitorrentd.api import Busy, PeerId

SLOT_S: Final = 300.0
SLOTS: Final = 13
"Any hour touches at most 13 slots of five minutes, so that none is counted too low."
MIN_PASS_BYTES: Final = 64 * 1024
"Passing less at a time costs more for the wakeup than for the bytes."
MAX_PAIRS: Final = 4096
FORGIVEN: Final = 0.01
"Share of its hour that an idle pair may have sent and be forgotten, if pairs become too many."

Pair = tuple[PeerId, PeerId]
"Two nodes in sorted order."


class Flow:
    """A token bucket of bytes: `rate` per second on average, a second's worth at once."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._burst = max(rate, float(MIN_PASS_BYTES))
        self._level = self._burst
        self._at = now

    def left(self, now: float) -> int:
        """Bytes that may pass now."""
        self._level = min(self._burst, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now
        return max(0, int(self._level))

    def spend(self, n: int, now: float) -> None:
        """Count `n` bytes that passed."""
        self.left(now)
        self._level -= n

    def wait_s(self, n: int, now: float) -> float:
        """Seconds until `n` bytes may pass; n is at most the burst."""
        self.left(now)
        return max(0.0, (n - self._level) / self.rate)


class Hourly:
    """Bytes of the last hour; at most `limit` in any hour."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slots: deque[tuple[int, int]] = deque()  # (number of the slot, bytes)
        self._sum = 0

    def left(self, now: float) -> int:
        """Bytes that may still pass."""
        self._forget(now)
        return max(0, self.limit - self._sum)

    @property
    def used(self) -> int:
        """Bytes counted at the last call."""
        return self._sum

    def spend(self, n: int, now: float) -> None:
        """Count `n` bytes that passed."""
        self._forget(now)
        slot = math.floor(now / SLOT_S)
        if self._slots and self._slots[-1][0] >= slot:
            last, count = self._slots.pop()
            self._slots.append((last, count + n))
        else:
            self._slots.append((slot, n))
        self._sum += n

    def slots(self, now: float) -> list[tuple[float, int]]:
        """When each slot that counts began, and its bytes."""
        self._forget(now)
        return [(slot * SLOT_S, count) for slot, count in self._slots]

    def wait_s(self, now: float) -> float:
        """Seconds until the oldest bytes are forgotten; 0 if there are none."""
        self._forget(now)
        return (self._slots[0][0] + SLOTS) * SLOT_S - now if self._slots else 0.0

    def _forget(self, now: float) -> None:
        oldest = math.floor(now / SLOT_S) - SLOTS + 1
        while self._slots and self._slots[0][0] < oldest:
            self._sum -= self._slots.popleft()[1]


class PairBudget:
    """What is left for one pair."""

    def __init__(self, rate: int, bytes_per_hour: int, now: float) -> None:
        self.flow = Flow(rate, now)
        self.hour = Hourly(bytes_per_hour)
        self.circuits = 0


class Budgets:
    """The budgets of all pairs, and the rate of all together."""

    def __init__(self, rate: int, bytes_per_hour: int, total_rate: int, now: float) -> None:
        self.passed = 0
        "Bytes since the start."
        self._rate = rate
        self._bytes_per_hour = bytes_per_hour
        self._total = Flow(total_rate, now)
        self._pairs: dict[Pair, PairBudget] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def take_up(self, one: PeerId, other: PeerId, now: float) -> PairBudget:
        """The budget of a pair that opens a circuit; `give_up` when the circuit ends.

        Raises:
            Busy: the pair has used up its hour, or too many pairs have circuits.
        """
        pair = pair_of(one, other)
        budget = self._pairs.get(pair)
        if budget is None:
            if len(self._pairs) >= MAX_PAIRS:
                self._prune(now)
            if len(self._pairs) >= MAX_PAIRS:
                raise Busy(f"this relay passes bytes between {MAX_PAIRS} pairs of nodes, its limit")
            budget = self._pairs[pair] = PairBudget(self._rate, self._bytes_per_hour, now)
        if not budget.hour.left(now):
            minutes = math.ceil(budget.hour.wait_s(now) / 60)
            raise Busy(
                "these two nodes have sent as many bytes through this relay as it allows in an hour"
                f"; try again in {minutes} min"
            )
        budget.circuits += 1
        return budget

    def hours(self, now: float) -> list[tuple[Pair, float, int]]:
        """What each pair has sent in the last hour: the pair, when a slot began, and its bytes."""
        return [
            (pair, at, count)
            for pair, budget in self._pairs.items()
            for at, count in budget.hour.slots(now)
        ]

    def restore(self, one: PeerId, other: PeerId, slots: Iterable[tuple[float, int]]) -> None:
        """Take up what a pair sent before a restart: when, oldest first, and the bytes."""
        if len(self._pairs) >= MAX_PAIRS:
            return
        for at, count in slots:
            pair = pair_of(one, other)
            if pair not in self._pairs:
                self._pairs[pair] = PairBudget(self._rate, self._bytes_per_hour, at)
            self._pairs[pair].hour.spend(count, at)

    def give_up(self, budget: PairBudget) -> None:
        """A circuit of the pair ended."""
        budget.circuits -= 1

    def left(self, budget: PairBudget, now: float) -> int:
        """Bytes that the pair may pass now."""
        return min(budget.flow.left(now), budget.hour.left(now), self._total.left(now))

    def spend(self, budget: PairBudget, n: int, now: float) -> None:
        """Count `n` bytes that the pair passed."""
        budget.flow.spend(n, now)
        budget.hour.spend(n, now)
        self._total.spend(n, now)
        self.passed += n

    def wait_s(self, budget: PairBudget, now: float) -> float | None:
        """Seconds until the pair may pass more; None if its hour is used up."""
        hour = budget.hour.left(now)
        if not hour:
            return None
        n = min(hour, MIN_PASS_BYTES)
        return max(budget.flow.wait_s(n, now), self._total.wait_s(n, now))

    def _prune(self, now: float) -> None:
        """Forget idle pairs that sent nothing within the hour, else the one that sent least.

        Else a node with thousands of identities, each of which sends a byte, would keep all
        others out for an hour.
        """
        idle = {pair: b.hour for pair, b in self._pairs.items() if not b.circuits}
        used = {pair: hour.limit - hour.left(now) for pair, hour in idle.items()}
        unused = [pair for pair, n in used.items() if not n]
        least = min(used, key=used.__getitem__, default=None)
        for pair in unused or ([] if least is None else [least]):
            if used[pair] <= self._bytes_per_hour * FORGIVEN:
                del self._pairs[pair]


def pair_of(one: PeerId, other: PeerId) -> Pair:
    """The pair of two nodes, whichever of them asks."""
    return (one, other) if one < other else (other, one)
