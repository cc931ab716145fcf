"""Ways to reach a peer: the transport enters `direct`; relays and hole punching enter theirs.

A dialer opens a connection and no more. The transport runs its handshake over it, so no way to
reach a peer can take the place of proving who that is.

    with ctx.service(DIALERS).added(relay.name, relay):
        yield
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from aitorrentd.api.network.addresses import Address
from aitorrentd.api.services import Registry, ServiceKey

MakeProtocol = Callable[[], asyncio.Protocol]


class Dialer(Protocol):
    """One way to reach a peer."""

    @property
    def name(self) -> str:
        """Short, unique on this node: `direct`, `relay`."""

    def can_try(self, address: Address) -> bool:
        """Whether it makes sense to try `address` in this way now; costs nothing."""

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        """A connection to `address` whose bytes go to what `make_protocol` returns.

        As `loop.create_connection`: the protocol's `connection_made` was called. The caller sets
        the time limit by cancelling, and closes what it gets.

        Raises:
            OSError, Unavailable: the address cannot be reached in this way.
        """


DIALERS: Final = ServiceKey[Registry[Dialer]]("transport.dialers.v1")
