"""What was tried to reach each peer. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aitorrentd.api import Attempt, PeerId
from aitorrentd.api.limits import PerPeer

KEEP_S: Final = 86_400.0
MAX_ATTEMPTS: Final = 64
MAX_OUTCOME_CHARS: Final = 300


class AttemptLog:
    """Implements `aitorrentd.api.Attempts`, in memory. `now()` is in seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._noted: PerPeer[deque[Attempt]] = PerPeer(lambda: deque(maxlen=MAX_ATTEMPTS))

    def note(self, peer: PeerId, attempt: Attempt) -> None:
        """Record an attempt to reach `peer`."""
        outcome = attempt.outcome[:MAX_OUTCOME_CHARS]
        self._noted.of(peer).append(replace(attempt, outcome=outcome))

    def peers(self) -> Sequence[PeerId]:
        """The peers with recorded attempts."""
        return [PeerId(peer) for peer in self._noted]

    def of(self, peer: PeerId) -> Sequence[Attempt]:
        """Attempts within the last 24 hours, oldest first."""
        since = self._now() - KEEP_S
        noted = self._noted.find(peer)
        # Noted when they end; those that overlap began in another order.
        return sorted((each for each in noted or () if each.at >= since), key=lambda each: each.at)
