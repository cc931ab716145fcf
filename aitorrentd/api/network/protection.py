"""Protection against peers that misbehave or ask for too much: one place for reports and limits.

A plugin that serves peers counts their calls and reports their offences:

    guard = ctx.service(PROTECTION)
    guard.admit_call(stream.peer)                   # Busy if the peer exceeds its rate
    guard.report(stream.peer, Offence.INVALID_MESSAGE, "not JSON")

Each offence adds to the peer's threat score, which decays. A peer whose score gets too high is
disconnected and banned temporarily.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.services import ServiceKey


class Offence(StrEnum):
    """What a peer did wrong, from the gravest to the slightest."""

    PROTOCOL_ERROR = "protocol_error"
    "It broke the framing of a channel: no honest implementation does."
    INVALID_MESSAGE = "invalid_message"
    "A message on a stream could not be decoded."
    FAILED_HANDSHAKE = "failed_handshake"
    "A connection began a handshake and failed to authenticate, or spoke another protocol."
    FLOOD = "flood"
    "It exceeded a limit that honest nodes keep on their own."
    EXCESS_CALL = "excess_call"
    "It called more often than this node allows."


class Protection(Protocol):
    """Provided by the transport plugin."""

    def report(self, peer: PeerId, offence: Offence, detail: str = "") -> None:
        """Report an offence; may end the peer's channels before it returns."""

    def admit_call(self, peer: PeerId) -> None:
        """Count one call of `peer`.

        Raises:
            Busy: the peer exceeds its calls per minute or per hour; the text says when to retry.
        """


PROTECTION: Final = ServiceKey[Protection]("transport.protection.v1")
"What peers may ask for and what they did wrong, in one place."
