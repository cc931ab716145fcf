"""Addresses at which a node offers to be reached, and which of a peer's this node may send to.

A peer names addresses; if this node sent to whatever it names, it would scan ports and flood
machines on the peer's behalf. So only these are permitted, and only a few of each kind:

- the public address from which others, not the peer itself, see the peer connect;
- private addresses, if both ends have the same public address and may be on one local network;
- relayed addresses of a TURN server that this node is configured to use as well.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_CANDIDATES: Final = 32
"In one message."
MAX_HOST_CHARS: Final = 45


class Kind(StrEnum):
    """What an address is, and for which way of reaching the node."""

    LISTEN = "listen"
    "TCP: the node accepts peers there."
    TCP = "tcp"
    "TCP, punched: the port from which the node will connect, as seen from outside."
    TCP_HOST = "tcp-host"
    "TCP, punched: the same port on an interface of the node."
    UDP = "udp"
    "ICE: server reflexive (RFC 8445, section 4)."
    UDP_HOST = "udp-host"
    "ICE: host."
    TURN = "turn"
    "ICE: relayed by a TURN server."
    MANY = "many"
    "Birthday punch: the socket that guesses, or the address behind which many sockets wait."


MOST: Final = {
    Kind.LISTEN: 2,
    Kind.TCP: 2,
    Kind.TCP_HOST: 3,
    Kind.UDP: 4,
    Kind.UDP_HOST: 4,
    Kind.TURN: 1,
    Kind.MANY: 1,
}
"How many of a peer's candidates of each kind are used."
_PRIVATE_KINDS: Final = (Kind.TCP_HOST, Kind.UDP_HOST)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address; `host` is a canonical IP address."""

    kind: Kind
    host: str
    port: int

    @property
    def location(self) -> str:
        """As a multiaddr."""
        family = "ip6" if ":" in self.host else "ip4"
        via = "tcp" if self.kind in (Kind.LISTEN, Kind.TCP, Kind.TCP_HOST) else "udp"
        return f"/{family}/{self.host}/{via}/{self.port}"


@dataclass(frozen=True, slots=True)
class Allowance:
    """Which hosts a peer's candidates may name."""

    public: frozenset[str] = field(default_factory=frozenset)
    "IP addresses from which others see the peer connect."
    is_local: bool = False
    "Whether both ends have the same public address."
    turn: frozenset[str] = field(default_factory=frozenset)
    "Addresses of the TURN server that this node uses."
    own: frozenset[str] = field(default_factory=frozenset)
    "This machine's own addresses: containers have bridges at 172.17.0.1 on every machine."

    def permits(self, candidate: Candidate) -> bool:
        """Whether this node may send to `candidate`."""
        if candidate.kind is Kind.TURN:
            return candidate.host in self.turn
        if candidate.host in self.public:
            return candidate.kind is Kind.LISTEN or candidate.port >= 1024
        return (
            self.is_local
            and candidate.kind in _PRIVATE_KINDS
            and candidate.port >= 1024
            and is_local_host(candidate.host)
            and candidate.host not in self.own
        )

    def select(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those of a peer's `candidates` that may be used, in its order."""
        used: Counter[Kind] = Counter()
        selected: list[Candidate] = []
        for candidate in candidates:
            if self.permits(candidate) and candidate not in selected:
                used[candidate.kind] += 1
                if used[candidate.kind] <= MOST[candidate.kind]:
                    selected.append(candidate)
        return selected

    def hosts(self, candidates: Iterable[Candidate]) -> frozenset[str]:
        """Hosts from which datagrams of a session may arrive."""
        return self.public | {each.host for each in self.select(candidates)}


def is_local_host(host: str) -> bool:
    """Whether `host` is an address of a local network, and not of this machine alone."""
    ip = ipaddress.ip_address(host)
    return ip.is_private and not (ip.is_loopback or ip.is_multicast or ip.is_unspecified)


def canonical(host: str) -> str:
    """`host` as one canonical unicast IP address.

    Raises:
        ValueError: anything else.
    """
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped is not None or ip.scope_id):
        raise ValueError(f"{host} is not a plain address")
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        raise ValueError(f"{host} is not a unicast address")
    return str(ip)
