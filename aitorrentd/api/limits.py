"""Limits on what peers may do: token buckets and bans, both in bounded tables."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

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
