"""One key on two machines: where that was seen, of peers and of this node itself. No I/O.

A copied state directory makes two nodes that claim to be one. Both answer, so the channels of one
would replace those of the other, in turn and for ever; the table keeps the channel that it has, and
this remembers what people must be told.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import PeerId, short

RECENT_S: Final = 600.0
"How long a sighting counts as current; the rejected node tries again every minute or so."
MAX_SIGHTINGS: Final = 64
HOW_TO_END: Final = (
    "stop one of them, or give it a key of its own (stop it, move its identity.key away, start it)"
)


@dataclass(frozen=True, slots=True)
class Sighting:
    """Two live nodes with one key."""

    peer: PeerId
    "Whose key it is."
    first: str
    "Where the one is that was there before."
    second: str
    reporter: PeerId | None
    "Which peer says so; None when this node saw it itself."
    at: float

    @property
    def text(self) -> str:
        """What people should know."""
        if self.reporter is None:
            return f"two nodes use the key of {short(self.peer)}: {self.first} and {self.second}"
        return (
            f"another node uses this node's key: {short(self.reporter)} is connected to"
            f" {self.first} and to {self.second}"
        )


class Duplicates:
    """Recent sightings, one for each key and reporter. Callers pass `now` in monotonic seconds."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[PeerId, PeerId | None], Sighting] = OrderedDict()

    def note(self, sighting: Sighting) -> bool:
        """Remember a sighting; whether it is news, so that it is logged once."""
        key = sighting.peer, sighting.reporter
        before = self._seen.pop(key, None)
        self._seen[key] = sighting
        if len(self._seen) > MAX_SIGHTINGS:
            self._seen.popitem(last=False)
        return before is None or sighting.at - before.at > RECENT_S

    def current(self, now: float) -> list[Sighting]:
        """Sightings of the last ten minutes, in order."""
        return [s for s in self._seen.values() if now - s.at <= RECENT_S]
