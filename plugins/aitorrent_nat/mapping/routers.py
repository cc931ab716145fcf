"""What a router is asked for, what it grants, and who asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

LEASE_S: Final = 3600
"Asked for; a node that dies leaves a forwarded port for so long at most."


@dataclass(frozen=True, slots=True)
class Want:
    """A port of this machine that the internet should reach."""

    protocol: str
    "tcp or udp."
    port: int

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Lease:
    """A port that the router forwards."""

    want: Want
    external_host: str
    "IP address of the router on the other side; empty if it does not know."
    external_port: int
    lasts_s: float
    "Seconds from the grant; 0 = until it is removed."


class Router(Protocol):
    """A router that forwards ports, by one of the protocols."""

    @property
    def name(self) -> str:
        """The protocol, for people."""

    async def map(self, want: Want, external_port: int) -> Lease:
        """Forward a port, or keep forwarding it; the external port may be another one.

        Raises:
            Unavailable, TimedOut: no usable answer. Denied: the router refuses.
        """

    async def unmap(self, lease: Lease) -> None:
        """Stop forwarding.

        Raises:
            Unavailable, TimedOut: no usable answer. Denied: the router refuses.
        """
