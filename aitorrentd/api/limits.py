"""Limits on peers: rates and concurrency; all tables are bounded."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from aitorrentd.errors import Busy

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MAX_ENTRIES: Final = 4096
"Peers that a table remembers."


class TokenBucket:
    """A token bucket: up to `burst` at once, `rate` per second on average."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Take one if it is available; whether it was."""
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def due_s(self, now: float) -> float:
        """Seconds until one becomes available, if no other caller takes it first."""
        level = min(self.burst, self._level + (now - self._at) * self.rate)
        return max(0.0, (1 - level) / self.rate)

    def spend(self, now: float) -> float:
        """Take one unconditionally; returns the seconds to wait before acting on it."""
        if self.take(now):
            return 0.0
        self._level -= 1
        return -self._level / self.rate


class PerPeer(Generic[T]):
    """A value for each of the last few thousand peers; the least recently used is evicted first."""

    def __init__(self, make: Callable[[], T], *, max_entries: int = MAX_ENTRIES) -> None:
        self._make = make
        self._max = max_entries
        self._entries: OrderedDict[str, T] = OrderedDict()

    def of(self, peer: str) -> T:
        """The peer's entry, created if missing."""
        entry = self._entries.get(peer)
        if entry is None:
            entry = self._entries[peer] = self._make()
            if len(self._entries) > self._max:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(peer)
        return entry

    def values(self) -> list[T]:
        """Every entry, the least recently used first."""
        return list(self._entries.values())

    def find(self, peer: str) -> T | None:
        """The peer's entry, or None; does not count as use."""
        return self._entries.get(peer)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))


class InUse(Generic[K]):
    """Current count per holder. Requests over the limit are refused."""

    def __init__(self) -> None:
        self._held: Counter[K] = Counter()

    def take(self, who: K, limit: int) -> bool:
        """Give `who` one more unless it already has `limit`; whether it did."""
        if self._held[who] >= limit:
            return False
        self._held[who] += 1
        return True

    def release(self, who: K) -> None:
        """Release one that `who` took."""
        self._held[who] -= 1
        if self._held[who] <= 0:
            del self._held[who]  # holders are untrusted and transient: none leaves an entry behind

    def of(self, who: K) -> int:
        """How many `who` has now."""
        return self._held.get(who, 0)

    def __len__(self) -> int:
        return len(self._held)


class Slots:
    """A concurrency limit without a queue: requests over the limit are refused."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot while the block runs.

        Raises:
            Busy: all are taken. Its text is part of the protocol between peers.
        """
        if self.used >= self.limit:
            raise Busy("Too many requests", limit=self.limit)
        self.used += 1
        try:
            yield
        finally:
            self.used -= 1
