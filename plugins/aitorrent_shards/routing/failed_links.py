"""Links between nodes that failed when an answer or a test tried them. No I/O; callers pass `now`.

Plans avoid a failed link as long as there is another way. Without one, an answer tries it again
after a while, longer after each consecutive failure. All answers of a node share this memory.
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
    """A link from `sender` to `receiver` that failed."""

    sender: PeerId
    receiver: PeerId
    cause: str
    tried_at: float
    until: float
    failures: int


class FailedLinks:
    """The links whose last attempt failed."""

    def __init__(self) -> None:
        self._failed: dict[tuple[PeerId, PeerId], FailedLink] = {}

    def __len__(self) -> int:
        return len(self._failed)

    def failed(self, sender: PeerId, receiver: PeerId, cause: str, now: float) -> FailedLink:
        """Record that a link failed."""
        before = self._failed.pop((sender, receiver), None)
        failures = before.failures + 1 if before else 1
        pause_s = full_jitter_s(failures - 1, base_s=FIRST_S, cap_s=MOST_S, draw=1.0)
        link = FailedLink(sender, receiver, cause, now, now + pause_s, failures)
        self._failed[sender, receiver] = link
        if len(self._failed) > MAX_LINKS:
            del self._failed[next(iter(self._failed))]
        return link

    def worked(self, sender: PeerId, receiver: PeerId) -> None:
        """Record that a link succeeded."""
        self._failed.pop((sender, receiver), None)

    def last(self, sender: PeerId, receiver: PeerId) -> FailedLink | None:
        """The failure of a link that has not succeeded since."""
        return self._failed.get((sender, receiver))

    def find(self, sender: PeerId, receiver: PeerId, now: float) -> FailedLink | None:
        """The failure that excludes this link now, if any."""
        found = self._failed.get((sender, receiver))
        return found if found is not None and now < found.until else None
