"""Whether this node's clock agrees with its peers'. No I/O.

Peers tell their time of day when they exchange records. One of them may lie or be wrong; the median
of several may not.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict
from typing import Final

from aitorrentd.api import PeerId

MIN_PEERS: Final = 3
MAX_PEERS: Final = 64


class ClockWatch:
    """The last offsets of the peers' clocks from this node's."""

    def __init__(self) -> None:
        self._offsets: OrderedDict[PeerId, float] = OrderedDict()

    def note(self, peer: PeerId, ahead_s: float) -> None:
        """The clock of `peer` is `ahead_s` seconds ahead of this node's."""
        self._offsets[peer] = ahead_s
        self._offsets.move_to_end(peer)
        if len(self._offsets) > MAX_PEERS:
            self._offsets.popitem(last=False)

    @property
    def ahead_s(self) -> float | None:
        """How far the peers' clocks are ahead of this one, or None while too few were seen."""
        if len(self._offsets) < MIN_PEERS:
            return None
        return statistics.median(self._offsets.values())
