"""Which nodes refused layers of late: a dead one refuses every answer, several times a second, and
the log says so once. No I/O; callers pass `now`. All answers of a node share this memory.
"""

from __future__ import annotations

from typing import Final

from aitorrentd.api import PeerId

EVERY_S: Final = 60.0
"How long further refusals of a node are no news, in seconds."
MAX_NODES: Final = 1024


class RecentRefusals:
    """When the log last told of a node's refusal."""

    def __init__(self) -> None:
        self._told_at: dict[PeerId, float] = {}

    def is_news(self, peer: PeerId, now: float) -> bool:
        """Whether the log is to tell of a refusal at `now`, in seconds of a monotonic clock."""
        told_at = self._told_at.get(peer)
        if told_at is not None and now - told_at < EVERY_S:
            return False
        self._told_at.pop(peer, None)
        self._told_at[peer] = now
        if len(self._told_at) > MAX_NODES:
            del self._told_at[next(iter(self._told_at))]
        return True
