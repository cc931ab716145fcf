"""Where this node can be reached from outside: addresses to announce, and the verdict in a word."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from aitorrentd.api.network.addresses import Address
from aitorrentd.api.services import Registry, ServiceKey


class Advertiser(Protocol):
    """Knows addresses of this node besides those on which it listens: forwarded ports, relays."""

    def addresses(self) -> Sequence[Address]:
        """The addresses to announce now, most useful first; cheap to call, every few seconds."""


ADVERTISERS: Final = ServiceKey[Registry[Advertiser]]("transport.advertisers.v1")
"Sources of addresses that peers are told in addition to the listening addresses."


class UdpListener(Protocol):
    """Receives datagrams from strangers, besides the transport."""

    def udp_ports(self) -> Sequence[int]:
        """The local ports on which it listens now; cheap to call, every few seconds."""


class Reach(StrEnum):
    """How strangers can reach this node."""

    UNKNOWN = "unknown"
    "Too few peers told so far."
    OFFLINE = "offline"
    "No peer is connected."
    PUBLIC = "public"
    "Peers can dial it."
    CONE = "behind a cone NAT"
    "Not dialled by strangers, but its mappings do not depend on the destination: punching works."
    SYMMETRIC = "behind a symmetric NAT"
    "Each destination gets a mapping of its own."
    RELAYED = "relayed"
    "Reached through a relay only."


class Reachability(Protocol):
    """Provided by the nat plugin."""

    @property
    def reach(self) -> Reach:
        """The verdict in a word."""

    @property
    def reason(self) -> str:
        """One line: what the verdict rests on."""

    @property
    def is_closed(self) -> bool:
        """Whether datagrams are known to be kept out that come from hosts to which this node did
        not send; false while that is not known."""


REACHABILITY: Final = ServiceKey[Reachability]("nat.reachability.v1")
"How strangers can reach this node."
UDP_LISTENERS: Final = ServiceKey[Registry[UdpListener]]("nat.udp_listeners.v1")
"Who listens for datagrams; the nat plugin has the router forward the ports."
