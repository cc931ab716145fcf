"""What a session needs from the rest of the node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aitorrent_nat.punch.paths.datagrams import HostPort
from aitorrent_nat.punch.plan import Nat
from aitorrent_nat.punch.sighting import Sighting
from aitorrentd.api import PeerId
from aitorrentd.api.network.attempts import Attempt
from aitorrentd.api.network.peer_port import PeerPort


@dataclass(frozen=True, slots=True)
class TurnAccess:
    """A TURN server and the credentials for it."""

    server: HostPort
    user: str
    password: str
    tls: bool = False
    transport: str = "udp"


class Surroundings(Protocol):
    """The node, as hole punching sees it."""

    @property
    def node_id(self) -> PeerId:
        """This node."""

    @property
    def peer_port(self) -> PeerPort:
        """Secures connections."""

    def mirrors(self, peer: PeerId) -> Sequence[HostPort]:
        """TCP addresses of peers that serve the mirror, those of relays to `peer` first."""

    def stun_servers(self) -> Sequence[HostPort]:
        """UDP addresses of STUN servers: peers, and those in the configuration."""

    def nat(self) -> Nat:
        """What is known of the NAT in front of this node."""

    def listening(self) -> Sequence[HostPort]:
        """Public addresses at which anybody can dial this node; empty behind a NAT."""

    def local_hosts(self) -> Sequence[str]:
        """IPv4 addresses of this machine's interfaces, without loopback."""

    async def sightings(self, peer: PeerId) -> Sequence[Sighting]:
        """Where others see this node connect from, by witnesses that `peer` may know."""

    def believed(self, peer: PeerId, sightings: Sequence[Sighting]) -> frozenset[str]:
        """Hosts from which `peer` connects, as witnesses say to whom this node is connected."""

    def turn(self) -> TurnAccess | None:
        """The TURN server in the configuration."""

    @property
    def birthday(self) -> bool:
        """Whether birthday punches are allowed."""

    def is_direct(self, peer: PeerId) -> bool:
        """Whether the peer is connected without a relay by now."""

    def note(self, peer: PeerId, attempt: Attempt) -> None:
        """Record an attempt."""

    def unix_s(self) -> float:
        """Seconds since the epoch."""
