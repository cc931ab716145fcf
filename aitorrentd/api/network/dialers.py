"""Ways to reach a peer: the transport registers `direct`; relays and hole punching add their own.

A dialer only opens a connection. The transport runs its handshake over it, so no dialer can bypass
peer authentication.

    with ctx.service(DIALERS).added(relay.name, relay):
        yield
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from aitorrentd.api.network.addresses import Address
from aitorrentd.api.network.routes import MakeProtocol, Route
from aitorrentd.api.services import Registry, ServiceKey


class Dialer(Protocol):
    """One way to reach a peer."""

    @property
    def name(self) -> str:
        """Short, unique on this node: `direct`, `relay`."""

    def can_try(self, address: Address) -> bool:
        """Whether to try this way for `address` now; cheap to call."""

    def route(self, address: Address) -> Route | None:
        """The route of a connection to `address`; None if it leads directly to the peer."""

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        """Connect to `address`; the bytes go to the protocol that `make_protocol` returns.

        Like `loop.create_connection`: the protocol's `connection_made` has been called on return.
        The caller enforces its timeout by cancelling, and closes the connection.

        Raises:
            OSError, Unavailable: the address cannot be reached this way.
        """


DIALERS: Final = ServiceKey[Registry[Dialer]]("transport.dialers.v1")
"Ways to reach a peer, tried in the order in which they were added."
