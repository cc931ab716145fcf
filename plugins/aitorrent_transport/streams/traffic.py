"""Bytes of streams by protocol, over all channels. No I/O.

Nothing is counted as bytes pass: what a stream carried follows from its windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aitorrent_transport.streams.stream_state import StreamState


class Traffic:
    """What streams that ended carried, by protocol."""

    def __init__(self) -> None:
        self._in: Counter[str] = Counter()
        self._out: Counter[str] = Counter()

    def ended(self, state: StreamState) -> None:
        """Count a stream that is forgotten. One that carried nothing is not: strangers may open
        streams of any protocol, which are reset at once."""
        _add(self._in, self._out, state)

    def totals(self, running: Iterable[StreamState]) -> tuple[Counter[str], Counter[str]]:
        """Bytes received and sent, with those of streams that are still open."""
        totals = self._in.copy(), self._out.copy()
        for state in running:
            _add(*totals, state)
        return totals


def _add(received: Counter[str], sent: Counter[str], state: StreamState) -> None:
    if size := state.receiving.received:
        received[state.protocol] += size
    if size := state.sending.sent:
        sent[state.protocol] += size
