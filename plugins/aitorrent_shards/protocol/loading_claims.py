"""Which loading nodes are worth waiting for: those that make progress. No I/O.

A false claim costs a malicious node nothing, and callers would wait for it until their timeout. So
a claim without progress is no longer believed, and repeating or changing it gains little time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_shards.protocol.loading import Loading
from aitorrentd.api import PeerId

STALL_S: Final = 60.0
"Nodes report every hundredth; a worker that imports torch has nothing to report meanwhile."
FORGET_S: Final = 600.0
"A claim that was absent for this long starts over when it returns."
BEGINNINGS: Final = 5
"Legitimate ones: files found, files read, worker started, weights counted, worker restarted."
MAX_CLAIMS: Final = 4096
_STEP: Final = 0.01


@dataclass(slots=True)
class _Claim:
    what: tuple[int, int, int]
    "First layer, end, total bytes."
    done_bytes: int
    advanced_at: float
    said_at: float
    beginnings: int = 1


class Claims:
    """Tracks the peers' loading claims while they may matter; callers pass `now`."""

    def __init__(self) -> None:
        self._claims: dict[tuple[PeerId, str], _Claim] = {}

    def __len__(self) -> int:
        return len(self._claims)

    def advancing(self, said: Sequence[Loading], now: float) -> list[Loading]:
        """The claims in `said`, the complete current set, that made progress recently."""
        believed = [each for each in said if now - self._look(each, now) < STALL_S]
        self._forget(now)
        return believed

    def _look(self, each: Loading, now: float) -> float:
        """When this claim last made progress."""
        key = each.peer, each.model
        what = each.start, each.end, each.total_bytes
        # The least recently seen claim comes first, for `_forget`.
        claim = self._claims.pop(key, None) or _Claim(what, each.done_bytes, now, now)
        self._claims[key] = claim
        claim.said_at = now
        if claim.what != what or each.done_bytes < claim.done_bytes:
            if claim.beginnings < BEGINNINGS:
                claim.beginnings += 1
                claim.what, claim.done_bytes, claim.advanced_at = what, each.done_bytes, now
        elif each.done_bytes - claim.done_bytes >= max(_STEP * each.total_bytes, 1):
            claim.done_bytes, claim.advanced_at = each.done_bytes, now
        return claim.advanced_at

    def _forget(self, now: float) -> None:
        for key, claim in list(self._claims.items()):
            if len(self._claims) <= MAX_CLAIMS and now - claim.said_at < FORGET_S:
                return
            del self._claims[key]
