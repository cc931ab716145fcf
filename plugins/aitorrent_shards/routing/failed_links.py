"""Which nodes could not reach which others when an answer tried. No I/O; callers pass `now`.

A failed link is left out of plans for a while, longer each time it fails in a row, and then tried
again by the next answer that needs it. Every answer of a node uses the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aitorrentd.api import PeerId
from aitorrentd.api.backoff import full_jitter_s

FIRST_S: Final = 30.0
MOST_S: Final = 300.0
MAX_LINKS: Final = 4096


@dataclass(frozen=True, slots=True)
class FailedLink:
    """A link from `sender` to `receiver` that could not be made."""

    sender: PeerId
    receiver: PeerId
    cause: str
    tried_at: float
    until: float
    failures: int


class FailedLinks:
    """The links that failed last when they were tried."""

    def __init__(self) -> None:
        self._failed: dict[tuple[PeerId, PeerId], FailedLink] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, sender: PeerId, receiver: PeerId, cause: str, now: float) -> None:
        """A link was tried and could not be made."""
        before = self._failed.pop((sender, receiver), None)
        failures = before.failures + 1 if before else 1
        pause_s = full_jitter_s(failures - 1, base_s=FIRST_S, cap_s=MOST_S, draw=1.0)
        self._failed[sender, receiver] = FailedLink(
            sender, receiver, cause, now, now + pause_s, failures
        )
        if len(self._failed) > MAX_LINKS:
            del self._failed[next(iter(self._failed))]

    def worked(self, sender: PeerId, receiver: PeerId) -> None:
        """A link was made."""
        self._failed.pop((sender, receiver), None)

    def find(self, sender: PeerId, receiver: PeerId, now: float) -> FailedLink | None:
        """The failure for which this link is left out now, if there is one."""
        found = self._failed.get((sender, receiver))
        return found if found is not None and now < found.until else None
