"""How long to wait for an answer, from the round-trip times seen so far.

Follows RFC 6298, section 2, with bounds for a DHT: lookups that meet dead nodes spend their time
waiting, so the wait follows the node's distance instead of being fixed.
"""

from __future__ import annotations

from typing import Final

MIN_RTO_S: Final = 0.15
"Below it, a busy node or a scheduler would be taken for a dead one."
MAX_RTO_S: Final = 1.5
FIRST_RTO_S: Final = 0.5
"While no node has answered yet."
_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_K: Final = 4


class RoundTrip:
    """Smoothed round-trip time to one node, or to all of them."""

    __slots__ = ("srtt_s", "var_s")

    def __init__(self) -> None:
        self.srtt_s: float | None = None
        self.var_s = 0.0

    def add(self, rtt_s: float) -> None:
        """Take in one measurement; not of a request that was sent twice (Karn's algorithm)."""
        if self.srtt_s is None:
            self.srtt_s, self.var_s = rtt_s, rtt_s / 2
            return
        self.var_s += _BETA * (abs(self.srtt_s - rtt_s) - self.var_s)
        self.srtt_s += _ALPHA * (rtt_s - self.srtt_s)

    def rto_s(self, default_s: float = FIRST_RTO_S) -> float:
        """Seconds after which an answer is late."""
        if self.srtt_s is None:
            return default_s
        return min(MAX_RTO_S, max(MIN_RTO_S, self.srtt_s + _K * self.var_s))
