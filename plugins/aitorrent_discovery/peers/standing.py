"""How each peer fared with this node: dials, exchanges, faults. No I/O and no clock.

Trust comes from what this node saw itself. It decides who is asked first; it never vouches for what
a peer says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import PeerId
from aitorrentd.api.backoff import equal_jitter_s, full_jitter_s
from aitorrentd.api.limits import PerPeer

DIAL_BASE_S: Final = 15.0
DIAL_CAP_S: Final = 3600.0
EXCHANGE_BASE_S: Final = 60.0
EXCHANGE_CAP_S: Final = 3600.0
LOST_SPREAD_S: Final = 30.0
"Peers that lose the same node at the same moment come back over this time."
CHANGED_SPREAD_S: Final = 3.0
"The same when it was this node's own network that changed."
CHANGED_S: Final = 15.0
"Peers lost within this after a change of the network were lost by it."
MAX_COUNTED: Final = 3
"Successes beyond these add no trust: an old peer is no better than a proven one."
FAULT_S: Final = 3600.0
"How long a fault lowers trust."
REFUSED_S: Final = 600.0


@dataclass(slots=True)
class Standing:
    """What happened with one peer."""

    dialled: int = 0
    "Dials that succeeded, in this run and earlier ones."
    dialled_at: float = 0.0
    "Seconds since the epoch of the last one; 0 = never."
    failed_dials: int = 0
    "Failures since the last success."
    tried: bool = False
    "Whether this run has dialled it."
    dial_after: float = 0.0
    "Monotonic time before which it is not dialled."
    silent: int = 0
    "Exchanges in a row that it did not answer."
    exchange_after: float = 0.0
    faults: int = 0
    fault_at: float = 0.0
    fault: str = ""
    "What it did last against the rules of gossip."
    refused_until: float = 0.0
    "Monotonic time until which it may not begin an exchange."


class Standings:
    """The standing of each of the last few thousand peers."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._peers: PerPeer[Standing] = PerPeer(Standing)
        self._changed_at = float("-inf")

    def of(self, peer: PeerId) -> Standing:
        """The standing of `peer`."""
        return self._peers.of(peer)

    def connected(self, peer: PeerId, epoch: float) -> None:
        """A dial to `peer` succeeded."""
        standing = self.of(peer)
        standing.tried = True
        standing.dialled += 1
        standing.dialled_at = epoch
        standing.failed_dials = 0

    def not_connected(self, peer: PeerId, now: float) -> None:
        """A dial to `peer` failed; the next one waits."""
        standing = self.of(peer)
        standing.tried = True
        standing.dial_after = now + equal_jitter_s(
            standing.failed_dials, base_s=DIAL_BASE_S, cap_s=DIAL_CAP_S, draw=self._draw()
        )
        standing.failed_dials += 1

    def lost(self, peer: PeerId, now: float) -> None:
        """The channel to `peer` ended."""
        is_ours = now - self._changed_at <= CHANGED_S
        spread_s = CHANGED_SPREAD_S if is_ours else LOST_SPREAD_S
        wait_s = full_jitter_s(0, base_s=spread_s, draw=self._draw())
        standing = self.of(peer)
        standing.dial_after = max(standing.dial_after, now + wait_s)

    def network_changed(self, now: float) -> None:
        """Dial everybody soon again: failures so far tell of the network that was."""
        self._changed_at = now
        for standing in self._peers.values():
            wait_s = full_jitter_s(0, base_s=CHANGED_SPREAD_S, draw=self._draw())
            standing.dial_after = min(standing.dial_after, now + wait_s)
            standing.failed_dials = 0

    def answered(self, peer: PeerId) -> None:
        """An exchange with `peer` was completed."""
        standing = self.of(peer)
        standing.silent = 0
        standing.exchange_after = standing.refused_until

    def silent(self, peer: PeerId, now: float) -> None:
        """`peer` did not answer an exchange; the next one waits."""
        standing = self.of(peer)
        standing.exchange_after = now + equal_jitter_s(
            standing.silent, base_s=EXCHANGE_BASE_S, cap_s=EXCHANGE_CAP_S, draw=self._draw()
        )
        standing.silent += 1

    def fault(self, peer: PeerId, reason: str, now: float) -> None:
        """`peer` broke the rules of gossip: there is none with it for a while."""
        standing = self.of(peer)
        if now - standing.fault_at > FAULT_S:
            standing.faults = 0
        standing.faults += 1
        standing.fault_at = now
        standing.fault = reason
        standing.refused_until = now + REFUSED_S
        standing.exchange_after = max(standing.exchange_after, now + REFUSED_S)

    def trust(self, peer: PeerId, now: float) -> float:
        """How much to prefer `peer`: 1 for a stranger, up to 4 for a proven peer, towards 0."""
        standing = self.of(peer)
        faults = standing.faults if now - standing.fault_at <= FAULT_S else 0
        merit = 1 + min(standing.dialled, MAX_COUNTED)
        return merit / (1 + standing.failed_dials + standing.silent + 4 * faults)

    def by_trust(self, peers: Iterable[PeerId], now: float) -> list[PeerId]:
        """`peers` in a random order in which trusted ones tend to come first.

        Weighted sampling without replacement: Efraimidis and Spirakis (2006).
        """
        keyed = [(self._draw() ** (1 / self.trust(peer, now)), peer) for peer in peers]
        return [peer for _, peer in sorted(keyed, reverse=True)]
