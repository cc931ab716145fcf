"""The guard counts what peers ask for, adds up their offences, and bans those with too many."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_transport.protection.bans import MEMORY_S, Ban, Bans, parse_subject
from aitorrent_transport.protection.limits import Limits
from aitorrent_transport.protection.scores import ThreatScores
from aitorrent_transport.protection.subnets import is_public, shares
from aitorrentd.api import Busy, Clock, Denied, Event, PeerId, short
from aitorrentd.api.backoff import exponential_s
from aitorrentd.api.events import PeerBanned, PeerMisbehaved
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.network.protection import Offence

BAN_AT: Final = 100.0
POINTS: Final = {
    Offence.PROTOCOL_ERROR: 100.0,
    Offence.INVALID_MESSAGE: 20.0,
    Offence.FAILED_HANDSHAKE: 5.0,
    Offence.FLOOD: 0.2,
    Offence.EXCESS_CALL: 0.25,
}
"Points per offence. A score of `BAN_AT` bans; it halves in ten minutes."
MAX_HISTORY: Final = 50
MAX_DETAIL_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """An offence of a peer."""

    at: float
    "Seconds since the epoch."
    offence: Offence
    detail: str


class Guard:
    """Implements `aitorrentd.api.network.protection.Protection`, for peers and for addresses.

    `on_ban(ban)` is called at each new ban; it disconnects those concerned and saves the ban.
    """

    def __init__(
        self,
        me: PeerId,
        clock: Clock,
        limits: Limits,
        *,
        log: logging.Logger,
        publish: Callable[[Event], None],
    ) -> None:
        self.on_ban: Callable[[Ban], None] = lambda ban: None
        self.bans = Bans()
        self._me = me
        self._clock = clock
        self._limits = limits
        self._log = log
        self._publish = publish
        self._scores = ThreatScores()
        self._history: PerPeer[deque[Entry]] = PerPeer(lambda: deque(maxlen=MAX_HISTORY))
        self._minutes = self._buckets(limits.calls_per_minute, 60.0)
        self._hours = self._buckets(limits.calls_per_hour, 3600.0)

    def _buckets(self, count: int, seconds: float) -> PerPeer[TokenBucket]:
        now = self._clock.monotonic
        return PerPeer(lambda: TokenBucket(count / seconds, count, now()))

    # Peers

    def admit_call(self, peer: PeerId) -> None:
        """Count one call of `peer`.

        Raises:
            Busy: it exceeds its calls per minute or per hour.
        """
        if peer == self._me:
            return
        now = self._clock.monotonic()
        minute, hour = self._minutes.of(peer), self._hours.of(peer)
        wait_s = max(minute.due_s(now), hour.due_s(now))
        if wait_s > 0:
            self.report(peer, Offence.EXCESS_CALL)
            limits = self._limits
            raise Busy(
                f"more than {limits.calls_per_minute} calls per minute or"
                f" {limits.calls_per_hour} per hour; retry in {math.ceil(wait_s)} s",
                retry_after_s=math.ceil(wait_s),
            )
        minute.take(now)
        hour.take(now)

    def report(self, peer: PeerId, offence: Offence, detail: str = "") -> None:
        """Report an offence of `peer`; may end its channels before it returns."""
        if peer == self._me:
            return
        detail = detail[:MAX_DETAIL_CHARS]
        self._history.of(peer).append(Entry(self._clock.time(), offence, detail))
        self._publish(PeerMisbehaved(peer, offence.value, detail))
        self._add(peer, offence, detail)

    def score(self, peer: PeerId) -> float:
        """The threat score of `peer`; it is banned at `BAN_AT`."""
        return self._scores.of(peer, self._clock.monotonic())

    def history(self, peer: PeerId) -> Sequence[Entry]:
        """The latest offences of `peer`, oldest first."""
        return tuple(self._history.of(peer))

    # Addresses

    def report_address(self, address: str, offence: Offence, detail: str = "") -> None:
        """Report an offence from an address whose peer is unknown.

        Only public addresses count: a proxy or a gateway of a private network stands for many.
        """
        host, _ = shares(address)
        if host and is_public(address):
            self._add(parse_subject(host), offence, detail)

    def refusal(self, address: str, peer: PeerId | None = None) -> str:
        """Why a connection with `address` is refused, or the empty string."""
        now = self._clock.monotonic()
        ban = self.bans.of(peer, now) if peer is not None else None
        ban = ban or self.bans.of_address(address, now)
        if ban is None:
            return ""
        return f"banned for another {ban.left_s(now):.0f} s: {ban.reason}"

    def check(self, address: str, peer: PeerId) -> None:
        """Refuse a banned peer or address.

        Raises:
            Denied: with the time left and the reason.
        """
        if reason := self.refusal(address, peer):
            raise Denied(reason)

    # Bans

    def ban(self, subject: str, seconds: float, reason: str) -> Ban:
        """Ban a peer id, address or network on the operator's behalf."""
        now = self._clock.monotonic()
        ban = Ban(subject, now + seconds, reason, self.bans.times(subject, now) + 1, True)
        self._enforce(ban)
        return ban

    def unban(self, subject: str) -> bool:
        """Lift a ban and clear the score; return whether the subject was banned."""
        self._scores.clear(subject)
        return self.bans.lift(subject)

    def restore(self, bans: Sequence[Ban]) -> None:
        """Take over the bans of earlier runs; those of this run stay."""
        now = self._clock.monotonic()
        for ban in bans:
            if self.bans.of(ban.subject, now) is None and ban.left_s(now):
                self.bans.add(ban)

    def _add(self, subject: str, offence: Offence, detail: str) -> None:
        now = self._clock.monotonic()
        score = self._scores.add(subject, POINTS[offence], now)
        if score < BAN_AT or self.bans.of(subject, now) is not None:
            return
        self._scores.clear(subject)
        times = self.bans.times(subject, now) + 1
        seconds = exponential_s(times - 1, self._limits.ban_s, MEMORY_S)
        reason = offence.value.replace("_", " ") + (f": {detail}" if detail else "")
        ban = Ban(subject, now + seconds, reason, times)
        shown = short(PeerId(subject)) if subject.startswith("12D3") else subject
        self._log.warning("%s is banned for %.0f s: %s", shown, seconds, reason)
        self._enforce(ban)

    def _enforce(self, ban: Ban) -> None:
        self.bans.add(ban)
        left_s = ban.left_s(self._clock.monotonic())
        self._publish(PeerBanned(ban.subject, left_s, ban.reason, ban.by_operator))
        self.on_ban(ban)
