"""One key on two machines: sightings, for peers and for this node itself. No I/O.

A copied state directory makes two nodes claim the same identity. Both answer, so their channels
would replace each other endlessly; the table keeps its existing channel, and this module remembers
what to report.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import PeerId, short

RECENT_S: Final = 600.0
"How long a sighting stays current; the rejected node retries about once a minute."
MAX_SIGHTINGS: Final = 64
HOW_TO_END: Final = (
    "stop one of them, or give it a new key: stop it, move its identity.key away, start it"
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """Two live nodes with one key."""

    peer: PeerId
    "The peer whose key it is."
    first: str
    "Location of the node that connected first."
    second: str
    reporter: PeerId | None
    "The reporting peer; None if this node saw it itself."
    at: float

    @property
    def text(self) -> str:
        """The report for users."""
        if self.reporter is None:
            return f"two nodes use the key of {short(self.peer)}: {self.first} and {self.second}"
        return (
            f"another node uses this node's key: {short(self.reporter)} is connected to"
            f" {self.first} and to {self.second}"
        )


class Duplicates:
    """Recent sightings, one per key and reporter. Callers pass `now` in monotonic seconds."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[PeerId, PeerId | None], Sighting] = OrderedDict()

    def note(self, sighting: Sighting) -> bool:
        """Record a sighting; return whether it is new, so that it is logged once."""
        key = sighting.peer, sighting.reporter
        before = self._seen.pop(key, None)
        self._seen[key] = sighting
        if len(self._seen) > MAX_SIGHTINGS:
            self._seen.popitem(last=False)
        return before is None or sighting.at - before.at > RECENT_S

    def current(self, now: float) -> list[Sighting]:
        """Sightings of the last ten minutes, in order."""
        return [s for s in self._seen.values() if now - s.at <= RECENT_S]
