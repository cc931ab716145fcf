"""Limits on what peers may do: how often, how many at a time, and bans; all tables are bounded."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from aitorrentd.errors import Busy

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

BAN_S: Final = 600.0
MAX_ENTRIES: Final = 4096


class TokenBucket:
    """`burst` things at once, `rate` a second in the long run."""

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def due_s(self, now: float) -> float:
        """Seconds until one more is allowed, if nobody takes it before."""
        level = min(self.burst, self._level + (now - self._at) * self.rate)
        return max(0.0, (1 - level) / self.rate)

    def spend(self, now: float) -> float:
        """Take one in any case; returns the seconds to wait before acting on it."""
        if self.take(now):
            return 0.0
        self._level -= 1
        return -self._level / self.rate


class PerPeer(Generic[T]):
    """Something kept for each of the last few thousand peers; the longest unused goes first."""

    def __init__(self, make: Callable[[], T], *, max_entries: int = MAX_ENTRIES) -> None:
        self._make = make
        self._max = max_entries
        self._entries: OrderedDict[str, T] = OrderedDict()

    def of(self, peer: str) -> T:
        """The peer's entry, made when there was none."""
        entry = self._entries.get(peer)
        if entry is None:
            entry = self._entries[peer] = self._make()
            if len(self._entries) > self._max:
                self._entries.popitem(last=False)
        else:
            self._entries.move_to_end(peer)
        return entry

    def __len__(self) -> int:
        return len(self._entries)


class InUse(Generic[K]):
    """How many of something each of those who hold any has now. What does not fit is refused."""

    def __init__(self) -> None:
        self._held: Counter[K] = Counter()

    def take(self, who: K, limit: int) -> bool:
        """Give `who` one more, unless that one has `limit` already; whether it did."""
        if self._held[who] >= limit:
            return False
        self._held[who] += 1
        return True

    def release(self, who: K) -> None:
        """Take back one that `who` took."""
        self._held[who] -= 1
        if self._held[who] <= 0:
            del self._held[who]  # strangers come and go: none leaves an entry behind

    def of(self, who: K) -> int:
        """How many `who` has now."""
        return self._held.get(who, 0)

    def __len__(self) -> int:
        return len(self._held)


class Slots:
    """How many of something run at one time. Nobody queues: what does not fit is refused."""

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


class BanList:
    """Peers that broke the rules, each for a time."""

    def __init__(self, *, ban_s: float = BAN_S, max_entries: int = MAX_ENTRIES) -> None:
        self.count = 0
        "Bans since the start."
        self._ban_s = ban_s
        self._max = max_entries
        self._until: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def ban(self, peer: str, reason: str, now: float) -> None:
        """Refuse `peer` from now on, for the usual time."""
        self.count += 1
        self._until[peer] = (now + self._ban_s, reason)
        self._until.move_to_end(peer)
        if len(self._until) > self._max:
            self._until.popitem(last=False)

    def left_s(self, peer: str, now: float) -> float:
        """Seconds for which `peer` is still refused, or 0."""
        until, _ = self._until.get(peer, (0.0, ""))
        if until and until <= now:
            del self._until[peer]
        return max(0.0, until - now)

    def reason(self, peer: str) -> str:
        """Why `peer` is refused."""
        return self._until.get(peer, (0.0, ""))[1]

    def __len__(self) -> int:
        return len(self._until)
