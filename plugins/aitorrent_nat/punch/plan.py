"""Which ways of punching can work between two NATs, and in which order. No I/O.

Words of RFC 4787 and RFC 5780. A mapping is *independent* if the NAT uses one external port for
all destinations. A filter is independent if anybody may send to that port, address-dependent if
only hosts that were sent to, port-dependent if only the exact ports that were sent to.

| one side | other side | TCP | ICE | birthday | why |
|---|---|---|---|---|---|
| independent mapping | independent mapping | yes | yes | – | each knows the other's port |
| symmetric | independent, filter not port-dependent | – | yes | – | one knows the port, the other \
learns it from the packet |
| symmetric | independent, filter port-dependent | – | – | yes | the port must be guessed |
| symmetric | symmetric | – | – | – | both ports must be guessed: 2^32 pairs |
| unknown | any | yes | yes | – | trying costs little |
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aitorrent_nat.punch.candidates import Kind

PREFER_TCP_S: Final = 1.0
"Head start of TCP over UDP where it should work: its streams are a hundred times as fast."
STAGGER_S: Final = 0.25
"Head start of a better way over the next (RFC 8305, section 5)."
GUESS_LATER_S: Final = 1.0
"Guessing costs hundreds of packets: ICE goes first where the peer's filter is unknown."


class Behaviour(StrEnum):
    """On what a NAT's mapping or filter depends."""

    INDEPENDENT = "independent"
    ADDRESS = "address"
    PORT = "port"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Nat:
    """The NAT in front of a node; one without a NAT has independent mapping and filter."""

    mapping: Behaviour = Behaviour.UNKNOWN
    filtering: Behaviour = Behaviour.UNKNOWN

    @property
    def is_symmetric(self) -> bool:
        """Whether each destination gets a port of its own."""
        return self.mapping in (Behaviour.ADDRESS, Behaviour.PORT)

    @property
    def is_cone(self) -> bool:
        """Whether one port serves all destinations."""
        return self.mapping is Behaviour.INDEPENDENT

    @property
    def is_strict(self) -> bool:
        """Whether only the exact port that was sent to may answer."""
        return self.filtering is Behaviour.PORT

    @property
    def may_need_guesses(self) -> bool:
        """Whether some other NAT can be passed from this one by guessing only."""
        strict = self.filtering in (Behaviour.PORT, Behaviour.UNKNOWN)
        return self.is_symmetric or (self.is_cone and strict)


class Leg(StrEnum):
    """A way to connect; its name is what people are shown."""

    DIAL = "reversed"
    "A plain TCP connection to where the peer listens."
    TCP = "tcp-punch"
    UDP = "udp-punch"
    BIRTHDAY = "birthday-punch"


@dataclass(frozen=True, slots=True)
class Step:
    """One leg of a plan."""

    leg: Leg
    delay_s: float
    "After the common start."


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, best first; `reason` explains the choice in one line."""

    steps: tuple[Step, ...]
    reason: str


def plan(
    own: Nat,
    peer: Nat,
    offered: Collection[Kind],
    peer_offered: Collection[Kind],
    *,
    is_local: bool = False,
    birthday: bool = True,
) -> Plan:
    """The plan for two NATs and the kinds of candidates that both ends offered.

    Both ends come to the same plan from the same facts, so each is ready when the other starts.
    """
    steps: list[Step] = []
    reason = _reason(own, peer)
    if is_local:
        reason = "both ends have the same public address: they may share a local network"
    # The end that can be dialled waits for the other, and punches only if nobody came.
    wait_s = 2 * STAGGER_S if Kind.LISTEN in offered or Kind.LISTEN in peer_offered else 0.0
    if Kind.LISTEN in peer_offered:
        steps.append(Step(Leg.DIAL, 0.0))
    both_tcp = _any(offered, Kind.TCP, Kind.TCP_HOST) and _any(
        peer_offered, Kind.TCP, Kind.TCP_HOST
    )
    both_udp = _any(offered, Kind.UDP, Kind.UDP_HOST, Kind.TURN) and _any(
        peer_offered, Kind.UDP, Kind.UDP_HOST, Kind.TURN
    )
    symmetric = own.is_symmetric or peer.is_symmetric
    if both_tcp and (is_local or not symmetric):
        steps.append(Step(Leg.TCP, wait_s))
        wait_s += PREFER_TCP_S if own.is_cone and peer.is_cone else STAGGER_S
    turn = Kind.TURN in offered and Kind.TURN in peer_offered
    if both_udp and (is_local or turn or _ice_can_work(own, peer)):
        steps.append(Step(Leg.UDP, wait_s))
        wait_s += GUESS_LATER_S
    both_many = Kind.MANY in offered and Kind.MANY in peer_offered
    if birthday and both_many and _guessing_can_work(own, peer):
        steps.append(Step(Leg.BIRTHDAY, wait_s))
    return Plan(tuple(steps), reason)


def _any(offered: Collection[Kind], *kinds: Kind) -> bool:
    return any(kind in offered for kind in kinds)


def _ice_can_work(own: Nat, peer: Nat) -> bool:
    if own.is_symmetric and peer.is_symmetric:
        return False
    if own.is_symmetric or peer.is_symmetric:
        other = peer if own.is_symmetric else own
        return not other.is_strict
    return True


def _guessing_can_work(own: Nat, peer: Nat) -> bool:
    one_is_symmetric = own.is_symmetric != peer.is_symmetric
    return one_is_symmetric and own.may_need_guesses and peer.may_need_guesses


def _reason(own: Nat, peer: Nat) -> str:
    if own.is_symmetric and peer.is_symmetric:
        return "both NATs are symmetric: neither end can know or guess the other's port"
    if own.is_symmetric or peer.is_symmetric:
        other = peer if own.is_symmetric else own
        if other.is_strict:
            return "one NAT is symmetric, the other admits exact ports only: a port must be guessed"
        return "one NAT is symmetric, the other learns its port from the first packet"
    if own.is_cone and peer.is_cone:
        return "both NATs keep one port for all destinations"
    return "the kind of one NAT is unknown"
