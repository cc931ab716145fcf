"""Threat scores: a number per peer or host that offences raise and time halves."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

HALF_LIFE_S: Final = 600.0
MAX_SUBJECTS: Final = 4096


class ThreatScores:
    """Scores of the last few thousand offenders; the least recent is evicted first."""

    def __init__(
        self, *, half_life_s: float = HALF_LIFE_S, max_subjects: int = MAX_SUBJECTS
    ) -> None:
        self._half_life_s = half_life_s
        self._max = max_subjects
        self._scores: OrderedDict[str, tuple[float, float]] = OrderedDict()
        "subject -> (score, when it had that value)"

    def __len__(self) -> int:
        return len(self._scores)

    def of(self, subject: str, now: float) -> float:
        """The current score, 0 for a subject without offences."""
        score, at = self._scores.get(subject, (0.0, now))
        return float(score * 0.5 ** (max(0.0, now - at) / self._half_life_s))

    def add(self, subject: str, points: float, now: float) -> float:
        """Raise the score of `subject`; return it."""
        score = self.of(subject, now) + points
        self._scores[subject] = (score, now)
        self._scores.move_to_end(subject)
        if len(self._scores) > self._max:
            self._scores.popitem(last=False)
        return score

    def clear(self, subject: str) -> None:
        """Forget the offences of `subject`."""
        self._scores.pop(subject, None)
