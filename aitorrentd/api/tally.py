"""Counts events that peers can trigger at any rate, for one log line a minute. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from typing import Final

EVERY_S: Final = 60.0
"Default minimum interval between two summaries, in seconds."
_MOST_NAMES: Final = 256


class Tally:
    """Counts events by cause and by source, and says when a summary is due.

    The first event is reported at once, later ones at most every `every_s` seconds. Callers pass
    `now` in seconds of a monotonic clock.
    """

    def __init__(self, *, every_s: float = EVERY_S) -> None:
        self.total = 0
        "Events since the start."
        self.last_at: float | None = None
        "When the last event was."
        self._every_s = every_s
        self._told_at: float | None = None
        self._causes: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()

    def add(self, cause: str, source: str, now: float) -> str | None:
        """Count one event; the summary to log now, or None while the last one is recent."""
        self.total += 1
        self.last_at = now
        self._causes[cause] += 1
        if source in self._sources or len(self._sources) < _MOST_NAMES:
            self._sources[source] += 1
        if self._told_at is not None and now - self._told_at < self._every_s:
            return None
        self._told_at = now
        text = self.summary()
        self._causes.clear()
        self._sources.clear()
        return text

    def summary(self) -> str:
        """Events since the last summary: `12 (9 from 203.0.113.7): no handshake within 5 s`."""
        count = sum(self._causes.values())
        source, most = next(iter(self._sources.most_common(1)), ("", 0))
        origin = "" if not source else f"{source}" if most == count else f"{most} from {source}"
        causes = "; ".join(cause for cause, _ in self._causes.most_common(3))
        return f"{count}{f' ({origin})' if origin else ''}: {causes}"
