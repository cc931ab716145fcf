"""Routes: how the two ends of a channel are connected.

Most channels are direct TCP connections. A relay forwards the bytes of others; hole punching opens
a connection between two nodes that no one can dial.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DIRECT: Final = "direct"
"Name of the route of a plain TCP connection to an address of the peer."
MakeProtocol = Callable[[], asyncio.Protocol]
"Returns the asyncio protocol that receives the bytes of a new connection."


@dataclass(frozen=True, slots=True)
class Route:
    """How the other end of a connection was reached."""

    name: str
    "What people are shown: `direct`, `relay`, `punched` and the like."
    location: str
    "The peer's end as a multiaddr without the final /p2p; shown as the channel's remote address."
    host: str = ""
    "The peer's IP address, for bans and limits; empty if unknown, as behind a relay."
    is_relayed: bool = False
    "Whether a third node forwards the bytes: any other route is better."
    renews: bool = False
    "Whether it replaces a relayed connection that is about to end: the peer's channel moves to it."
