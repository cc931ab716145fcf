"""Connections between two nodes that neither of them dialled, as a plugin brings them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aitorrentd.api import MakeProtocol, PeerId, PeerPort, PeerView, Route

PUNCHED = Route("brought", "/ip4/192.0.2.1/udp/1/quic-v1", "192.0.2.1")
RELAY = PeerId("12D3KooWGjrDPHnhZM4TGLgRxjpCCeLLMNkwpTJHRo5tzHBGMMkg")


def relay_route(relay: PeerId = RELAY) -> Route:
    """The route of a connection through a relay."""
    return Route("relay", f"/ip4/192.0.2.9/tcp/7/p2p/{relay}/p2p-circuit", is_relayed=True)


def brought(sock: socket.socket) -> Callable[[MakeProtocol], Awaitable[asyncio.Transport]]:
    """Connects a protocol to a connected socket."""

    async def connect(make_protocol: MakeProtocol) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(make_protocol, sock=sock)
        return transport

    return connect


async def secured(
    a: PeerPort, b: PeerPort, a_id: PeerId, b_id: PeerId, route: Route = PUNCHED
) -> tuple[PeerView, PeerView]:
    """Give two nodes a connection with each other; `a` begins the handshake."""
    ours, theirs = socket.socketpair()
    return await asyncio.gather(
        a.secure(brought(ours), b_id, route, dialer=True),
        b.secure(brought(theirs), a_id, route, dialer=False),
    )
