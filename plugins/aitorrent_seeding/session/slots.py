"""How many peers are served at once when the upload rate is limited.

A peer passes a piece on once it has all of it. If a limited rate is shared by all peers, each gets
its pieces late, and many the same ones; so as few are served as use the limit up.
"""

from __future__ import annotations

from typing import Final

EVERY_S: Final = 6.0
"Seconds between two looks; libtorrent tells the average rate of the last five."
_LEAST: Final = 2
"libtorrent keeps one of them for peers by turns, so with one, a lone peer waits for 30 s."
_MOST: Final = 50
_USED: Final = 0.8
"Of the limit; below it there is room for another peer."
_USED_UP: Final = 0.95
_REMEMBERED: Final = 10
"Looks after which fewer are tried again than left a part of the limit unused."


class Slots:
    """The number of peers to serve at once, `count`; begins with the least."""

    def __init__(self) -> None:
        self.count = _LEAST
        self._too_few = 0
        self._looks_ago = 0

    def look(self, *, limit_bps: int, sent_bps: int, served: int) -> bool:
        """Adapt to what was sent to the `served` peers; whether the number changed."""
        before = self.count
        self._looks_ago += 1
        if self._looks_ago >= _REMEMBERED:
            self._too_few = 0
        if sent_bps > _USED_UP * limit_bps:
            if before - 1 > self._too_few:
                self.count = max(_LEAST, before - 1)
        elif sent_bps < _USED * limit_bps and served >= before:
            self._too_few, self._looks_ago = before, 0
            self.count = min(_MOST, before + max(1, before // 2))
        return self.count != before
