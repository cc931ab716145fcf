"""The circuits of this relay, from the request to the end; no I/O, and no clock.

A circuit joins a dialer with a target. Each end gets a token of its own, valid once and for ten
seconds, with which it opens its leg: a new TCP connection to the relay. Once both legs are there,
bytes pass. One token for both ends would let the dialer play the target.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, TypeVar

from aitorrent_nat.relay.messages import TOKEN_BYTES
from aitorrentd.api import Busy, Conflict, PeerId
from aitorrentd.api.limits import InUse

CLAIM_S: Final = 10.0
"Seconds that both ends together have to connect."
MAX_CIRCUITS: Final = 512
"In total: each costs two file descriptors."

L = TypeVar("L")


class End(Enum):
    """Which end of a circuit."""

    DIALER = "dialer"
    TARGET = "target"

    @property
    def other(self) -> End:
        """The other end."""
        return End.TARGET if self is End.DIALER else End.DIALER


@dataclass(slots=True, eq=False)
class Circuit(Generic[L]):
    """One circuit; `legs` are its connections."""

    number: int
    dialer: PeerId
    target: PeerId
    opened_at: float
    tokens: dict[End, bytes]
    legs: dict[End, L] = field(default_factory=dict)

    @property
    def is_joined(self) -> bool:
        """Whether both ends have connected."""
        return len(self.legs) == len(End)

    def peer(self, end: End) -> PeerId:
        """The node at an end."""
        return self.dialer if end is End.DIALER else self.target


class Circuits(Generic[L]):
    """All circuits; `now` is in seconds of a monotonic clock."""

    def __init__(
        self, per_peer: int, draw: Callable[[], bytes] = lambda: secrets.token_bytes(TOKEN_BYTES)
    ) -> None:
        self._per_peer = per_peer
        self._draw = draw
        self._circuits: dict[int, Circuit[L]] = {}
        self._tokens: dict[bytes, tuple[Circuit[L], End]] = {}
        self._in_use: InUse[PeerId] = InUse()
        self._last = 0

    def __len__(self) -> int:
        return len(self._circuits)

    def __iter__(self) -> Iterator[Circuit[L]]:
        return iter(list(self._circuits.values()))

    def get(self, number: int) -> Circuit[L] | None:
        """The circuit with this number."""
        return self._circuits.get(number)

    def count(self, peer: PeerId) -> int:
        """Circuits of one node, in whichever role."""
        return self._in_use.of(peer)

    def open(self, dialer: PeerId, target: PeerId, now: float) -> Circuit[L]:
        """A new circuit, whose tokens can be claimed.

        Raises:
            Busy: the relay or one of the nodes has too many. Conflict: both are one node.
        """
        if dialer == target:
            raise Conflict("a circuit needs two nodes")
        if len(self._circuits) >= MAX_CIRCUITS:
            raise Busy(f"this relay has {MAX_CIRCUITS} circuits, its limit; try another one")
        if not self._in_use.take(dialer, self._per_peer):
            raise Busy(f"you have {self._per_peer} circuits through this relay, its limit per node")
        if not self._in_use.take(target, self._per_peer):
            self._in_use.release(dialer)
            raise Busy(
                f"the peer has {self._per_peer} circuits through this relay, its limit per node"
            )
        self._last += 1
        tokens = {end: self._draw() for end in End}
        circuit: Circuit[L] = Circuit(self._last, dialer, target, now, tokens)
        self._circuits[circuit.number] = circuit
        self._tokens.update((token, (circuit, end)) for end, token in tokens.items())
        return circuit

    def claim(self, token: bytes, leg: L, now: float) -> tuple[Circuit[L], End] | None:
        """Connect `leg` to the end that holds `token`; None if no token like that is valid."""
        circuit, end = self._tokens.pop(token, (None, End.DIALER))
        if circuit is None or self.is_overdue(circuit, now):
            return None
        circuit.legs[end] = leg
        return circuit, end

    def is_overdue(self, circuit: Circuit[L], now: float) -> bool:
        """Whether an end did not connect in time."""
        return not circuit.is_joined and now - circuit.opened_at >= CLAIM_S

    def end(self, circuit: Circuit[L]) -> bool:
        """Forget a circuit and its tokens; whether it was still there."""
        if self._circuits.pop(circuit.number, None) is None:
            return False
        for token in circuit.tokens.values():
            self._tokens.pop(token, None)
        self._in_use.release(circuit.dialer)
        self._in_use.release(circuit.target)
        return True
