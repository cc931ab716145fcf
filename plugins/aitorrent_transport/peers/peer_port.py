"""Connections that plugins bring: secured by the handshake, and added to the peer's channels."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aitorrent_transport.links.dial import dial
from aitorrent_transport.peers.table import PeerTable
from aitorrent_transport.secure.certificate import Credentials
from aitorrentd.api import Clock, MakeProtocol, PeerId, PeerView, Preface, Registry, Route


class PeerPortService:
    """Implements `aitorrentd.api.PeerPort`."""

    def __init__(
        self,
        table: PeerTable,
        credentials: Credentials,
        prefaces: Registry[Preface],
        clock: Clock,
    ) -> None:
        self.prefaces = prefaces
        self._table = table
        self._credentials = credentials
        self._clock = clock

    async def secure(
        self,
        connect: Callable[[MakeProtocol], Awaitable[asyncio.Transport]],
        peer: PeerId,
        route: Route,
        *,
        dialer: bool,
        timeout_s: float = 10.0,
    ) -> PeerView:
        """See `aitorrentd.api.PeerPort.secure`."""
        link = await dial(
            route.host,
            0,
            self._credentials,
            expected=peer,
            timeout_s=timeout_s,
            connect=connect,
            route=route,
            dialer=dialer,
        )
        entry = self._table.get(peer)
        if (
            entry is not None
            and link.route.is_relayed
            and not entry.best.link.route.is_relayed
            and entry.has_as_good(link)
        ):
            link.close("a better connection exists")
        else:
            entry = await self._table.adopt(link)
        return entry.view(self._clock.monotonic())
