"""The port on which this node accepts peers, for plugins that bring connections of their own.

A plugin that obtained a connection to a peer by other means than dialling, such as hole punching,
hands it to `PeerPort.secure`. A plugin that serves another protocol on the same TCP port adds a
`Preface`, by whose first four bytes a connection is recognised:

    with ctx.service(PEER_PORT).prefaces.added("mirror", mirror):
        yield
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from aitorrentd.api.ids import PeerId
from aitorrentd.api.network.routes import MakeProtocol, Route
from aitorrentd.api.network.transport import PeerView
from aitorrentd.api.services import Registry, ServiceKey

MAGIC_BYTES: Final = 4
"Bytes by which a protocol on the peer port is recognised."


class Preface(Protocol):
    """A protocol on the peer port."""

    @property
    def magic(self) -> bytes:
        """The first 4 bytes of its connections."""

    def serve(self, remote: tuple[str, int], accept: Callable[[], None]) -> asyncio.Protocol:
        """The protocol for a new connection from `remote`; the magic is in its first bytes.

        The connection is unauthenticated: it counts as half open, and is aborted after 5 s, until
        `accept()` is called.
        """


class PeerPort(Protocol):
    """Provided by the transport plugin."""

    @property
    def prefaces(self) -> Registry[Preface]:
        """Other protocols on the peer port."""

    async def secure(
        self,
        connect: Callable[[MakeProtocol], Awaitable[asyncio.Transport]],
        peer: PeerId,
        route: Route,
        *,
        dialer: bool,
        timeout_s: float = 10.0,
    ) -> PeerView:
        """Run the handshake over the connection that `connect` opens, and add the channel.

        `connect` is as in `Dialer`. One end is the `dialer`, the other is not; both accept only
        `peer`. If the peer is already connected by a worse route, its channel moves to this one;
        if by a better one, this connection is closed.

        Raises:
            AitorrentError: as `Transport.connect`.
        """


PEER_PORT: Final = ServiceKey[PeerPort]("transport.peer_port.v1")
"The port on which this node accepts peers."
