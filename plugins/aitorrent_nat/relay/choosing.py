"""Which peers a node chooses as its relays. No I/O, and no clock: callers pass `now`.

Near relays come first, since everything passes through them, but two relays should not fail
together: the second one is taken from another network if there is one. A relay that failed is left
alone for a while, longer after each failure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from aitorrent_nat.networks import region_of
from aitorrentd.api import PeerId
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.limits import PerPeer

UNKNOWN_RTT_S: Final = 1.0
"A peer without a measured round trip counts as a distant one."
FIRST_WAIT_S: Final = 10.0
MAX_WAIT_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A connected peer that relays for others."""

    peer: PeerId
    host: str
    "Where it can be dialled."
    rtt_s: float | None = None


@dataclass(slots=True)
class _Setback:
    failures: int = 0
    until: float = 0.0


class Setbacks:
    """How relays failed, and when each may be tried again; for the last few thousand."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._entries: PerPeer[_Setback] = PerPeer(_Setback)

    def failed(self, relay: PeerId, now: float, at_least_s: float = 0.0) -> float:
        """Note a failure; returns for how many seconds the relay is left alone."""
        entry = self._entries.of(relay)
        wait_s = equal_jitter_s(
            entry.failures, base_s=FIRST_WAIT_S, cap_s=MAX_WAIT_S, draw=self._draw()
        )
        entry.failures += 1
        entry.until = max(entry.until, now + max(wait_s, at_least_s))
        return entry.until - now

    def worked(self, relay: PeerId) -> None:
        """The relay gave a reservation."""
        entry = self._entries.of(relay)
        entry.failures, entry.until = 0, 0.0

    def may_try(self, relay: PeerId, now: float) -> bool:
        """Whether the relay may be tried now."""
        return now >= self._entries.of(relay).until


def choose(candidates: Iterable[Candidate], hosts: Collection[str], count: int) -> list[Candidate]:
    """Up to `count` of the candidates, best first; `hosts` are those of relays already in use."""
    left = sorted(candidates, key=lambda c: (UNKNOWN_RTT_S if c.rtt_s is None else c.rtt_s, c.peer))
    taken = {region_of(host) for host in hosts}
    chosen: list[Candidate] = []
    while left and len(chosen) < count:
        best = next((c for c in left if region_of(c.host) not in taken), left[0])
        left.remove(best)
        chosen.append(best)
        taken.add(region_of(best.host))
    return chosen
