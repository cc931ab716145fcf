"""The course of one session, for both ends: messages in, messages and a start out. No I/O, no
clock: callers pass `now`, and end a session that takes too long.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from aitorrent_nat.punch.candidates import MAX_CANDIDATES, Candidate
from aitorrent_nat.punch.messages import (
    Answer,
    Go,
    Message,
    Offer,
    Refuse,
    Result,
    Sync,
    Terms,
)
from aitorrentd.api import ProtocolError

MAX_RTT_S: Final = 3.0
"A channel slower than this cannot coordinate anything."


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Asked:
    """The initiator offers these terms: gather candidates, then call `accept` or `refuse`."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Answered:
    """The responder's terms: call `sync`."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Start:
    """Start the legs in `delay_s`, when the other end does."""

    delay_s: float
    rtt_s: float | None
    "Over the channel; None at the responder, which did not measure it."


@dataclass(frozen=True, slots=True)
class Refused:
    """The other end wants no session now."""

    reason: str


@dataclass(frozen=True, slots=True)
class Told:
    """What the other end got."""

    result: Result


Output = Send | Asked | Answered | Start | Refused | Told


class _State(Enum):
    NEW = auto()
    OFFERED = auto()
    "Initiator: the offer is out. Responder: the offer is in, the caller gathers."
    ANSWERED = auto()
    SYNCING = auto()
    SYNCED = auto()
    RUNNING = auto()
    ENDED = auto()


class Signalling:
    """One end of a session."""

    def __init__(self, *, initiator: bool) -> None:
        self.session = b""
        self.own: Terms | None = None
        self.peer: Terms | None = None
        self.result: Result | None = None
        "The other end's, once it is known."
        self._initiator = initiator
        self._state = _State.NEW
        self._synced_at = 0.0

    @property
    def key(self) -> bytes:
        """32 bytes that only the two ends know; valid once both terms are known.

        Raises:
            ProtocolError: they are not known yet.
        """
        if self.own is None or self.peer is None:
            raise ProtocolError("the session has no key yet")
        halves = (self.own.key, self.peer.key)
        first, second = halves if self._initiator else halves[::-1]
        return hashlib.sha256(b"aitd/punch/1" + self.session + first + second).digest()

    def offer(self, session: bytes, terms: Terms) -> list[Output]:
        """Begin as the initiator."""
        self.session, self.own = session, terms
        self._state = _State.OFFERED
        return [Send(Offer(session, terms))]

    def accept(self, terms: Terms) -> list[Output]:
        """Answer the offer with this node's terms."""
        self.own = terms
        self._state = _State.SYNCING
        return [Send(Answer(terms))]

    def sync(self, more: tuple[Candidate, ...], now: float) -> list[Output]:
        """Go on as the initiator after the answer, with `more` candidates."""
        self._state = _State.SYNCING
        self._synced_at = now
        return [Send(Sync(more))]

    def refuse(self, reason: str) -> list[Output]:
        """Answer the offer with a refusal."""
        self._state = _State.ENDED
        return [Send(Refuse(reason))]

    def finish(self, result: Result) -> list[Output]:
        """Tell the other end what this one got."""
        return [Send(result)]

    def receive(self, message: Message, now: float) -> list[Output]:
        """What follows from the peer's `message`.

        Raises:
            ProtocolError: it is out of turn, or the channel is too slow.
        """
        state = self._state
        match message:
            case Offer(session, terms) if state is _State.NEW and not self._initiator:
                self.session, self.peer = session, terms
                self._state = _State.OFFERED
                return [Asked(terms)]
            case Answer(terms) if state is _State.OFFERED and self._initiator:
                self.peer = terms
                self._state = _State.ANSWERED
                return [Answered(terms)]
            case Refuse(reason) if state is _State.OFFERED and self._initiator:
                self._state = _State.ENDED
                return [Refused(reason)]
            case Sync() if state is _State.SYNCING and self._initiator:
                rtt_s = now - self._synced_at
                if rtt_s > MAX_RTT_S:
                    raise ProtocolError(f"the channel takes {rtt_s:.1f} s for a round trip")
                self._state = _State.RUNNING
                return [Send(Go()), Start(rtt_s / 2, rtt_s)]
            case Sync(more) if state is _State.SYNCING and self.peer is not None:
                self._state = _State.SYNCED
                candidates = (self.peer.candidates + more)[:MAX_CANDIDATES]
                self.peer = replace(self.peer, candidates=candidates)
                return [Send(Sync())]
            case Go() if state is _State.SYNCED:
                self._state = _State.RUNNING
                return [Start(0.0, None)]
            case Result() if state is _State.RUNNING and self.result is None:
                self.result = message
                return [Told(message)]
        raise ProtocolError(f"a {type(message).__name__.lower()} out of turn")
