"""Attempts to reach peers, kept for a day: what `aitorrentctl peers why` explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to reach a peer by one way."""

    at: float
    "When it began, in seconds since the epoch."
    way: str
    "The dialer, or the step of hole punching: `direct`, `relay`, `tcp-punch` and the like."
    where: str
    "The address tried, as a multiaddr without the final /p2p; empty if there is none."
    ok: bool
    outcome: str
    "What happened, in one line; for a failure, the error."
    took_s: float


class Attempts(Protocol):
    """Provided by the transport plugin."""

    def note(self, peer: PeerId, attempt: Attempt) -> None:
        """Record an attempt to reach `peer`."""

    def of(self, peer: PeerId) -> Sequence[Attempt]:
        """Attempts to reach `peer` within the last 24 hours, oldest first; the last 64."""


ATTEMPTS: Final = ServiceKey[Attempts]("transport.attempts.v1")
"Attempts to reach peers."
