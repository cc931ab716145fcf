"""How many peers are served at once when the upload rate is limited.

A peer passes a piece on once it has all of it. If a limited rate is shared by several peers, each
gets its pieces late, and they ask for the same ones: two of eight peers were sent 1.3 to 1.8 copies
of a file before all had it, a single one 1.0. So as few are served as use the limit up, and more
only while others fall behind, since those that are served do not pass on what they get.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

EVERY_S: Final = 5.0
"Seconds between two looks."
_LEAST: Final = 1
_MOST: Final = 50
_USED: Final = 0.8
"Of the limit; below it there is room for another peer."
_USED_UP: Final = 0.95
_REMEMBERED: Final = 12
"Looks after which fewer are tried again than left a part of the limit unused, or peers behind."
_BEHIND: Final = 0.5
"A peer that gets less than so much of what those that are served get has fallen behind."
_TELLING: Final = 2
"Pieces that those must have got, to be a measure."


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer that wants pieces of a torrent that is whole here."""

    pieces: int
    "How many it has."
    is_served: bool


Crowd = dict[object, Standing]
"The peers of all such torrents, by whatever tells them apart."


class Slots:
    """The number of peers to serve at once, `count`; begins with one."""

    def __init__(self) -> None:
        self.count = _LEAST
        self._too_few = 0
        self._looks_ago = 0
        self._was_full = False
        "Whether so many were served at the last look."
        self._crowd: Crowd = {}

    def look(self, *, limit_bps: int, sent_bps: float, served: int, crowd: Crowd) -> bool:
        """Adapt to what was sent since the last look; whether the number changed.

        `served` peers are served now. Whoever began in between is no reason to serve more.
        """
        before, before_crowd = self.count, self._crowd
        is_full = served >= before
        was_full, self._was_full, self._crowd = self._was_full, is_full, crowd
        self._looks_ago += 1
        if self._looks_ago >= _REMEMBERED:
            self._too_few = 0
        is_unused = sent_bps < _USED * limit_bps and is_full and was_full
        if is_unused or is_one_behind(before_crowd, crowd):
            self._too_few, self._looks_ago = before, 0
            self.count = min(_MOST, before + max(1, before // 2))
        elif sent_bps > _USED_UP * limit_bps and before - 1 > self._too_few:
            self.count = max(_LEAST, before - 1)
        return self.count != before


def is_one_behind(before: Crowd, now: Crowd) -> bool:
    """Whether a peer that waits got far fewer pieces meanwhile than those that were served."""
    stayed = [(before[key], peer) for key, peer in now.items() if key in before]
    served = _gains((old, new) for old, new in stayed if old.is_served and new.is_served)
    waiting = _gains((old, new) for old, new in stayed if not (old.is_served or new.is_served))
    if not served or not waiting:
        return False
    usual = sum(served) / len(served)
    return usual >= _TELLING and min(waiting) < _BEHIND * usual


def _gains(pairs: Iterable[tuple[Standing, Standing]]) -> list[int]:
    return [new.pieces - old.pieces for old, new in pairs]
