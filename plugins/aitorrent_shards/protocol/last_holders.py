"""Remembers who offered which layers, to name them once nobody does. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from aitorrent_shards.protocol.spans import Span
from aitorrentd.api import PeerId, called

MAX_REMEMBERED: Final = 256
"Spans kept; those not seen for longest are dropped first."
MAX_NAMED: Final = 3


class LastHolders:
    """Spans of peers, the latest of each peer and model, with the names they had then."""

    def __init__(self) -> None:
        self._spans: dict[tuple[PeerId, str], tuple[Span, str]] = {}

    def note(self, spans: Iterable[Span], name_of: Callable[[PeerId], str]) -> None:
        """Remember the spans that peers offer now."""
        for span in spans:
            key = span.peer, span.digest
            _, name = self._spans.pop(key, (span, ""))
            self._spans[key] = span, name_of(span.peer) or name
        for key in list(self._spans)[:-MAX_REMEMBERED]:
            del self._spans[key]

    def text(self, accepts: Callable[[Span], bool], lost: Sequence[tuple[int, int]]) -> str:
        """`last held by …vX4pQq7a "bee"` for layers that nobody offers; empty if never seen."""
        held = [
            called(span.peer, name)
            for span, name in reversed(self._spans.values())
            if accepts(span) and any(span.start < end and span.end > start for start, end in lost)
        ]
        return f"last held by {', '.join(held[:MAX_NAMED])}" if held else ""
