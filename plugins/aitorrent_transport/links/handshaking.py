"""The start of every link: the handshake on an asyncio connection, for either side."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import cast

from aitorrent_transport.links.link import LIMITS, Link, LinkLimits
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import Handshake, Refusal
from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api import DIRECT, AitorrentError, PeerId, Route, Unavailable
from aitorrentd.api.network.addresses import address_of


def direct_route(remote: HostPort) -> Route:
    """The route of a plain connection to `remote`."""
    host, port = remote
    return Route(DIRECT, address_of(host, port).location if host else "", host)


def remote_of(transport: asyncio.BaseTransport) -> HostPort:
    """Host and port of the other end; the host is empty for unnamed sockets."""
    peer = transport.get_extra_info("peername")
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else ("", 0)


class HandshakeProtocol(asyncio.Protocol):
    """Runs one handshake on a connection and hands over the link, or the error.

    Exactly one of `on_link` and `on_error` is called, once.
    """

    def __init__(
        self,
        credentials: Credentials,
        on_link: Callable[[Link], None],
        on_error: Callable[[AitorrentError], None],
        *,
        dialer: bool,
        expected: PeerId | None = None,
        wanted_segment: Callable[[str], int] = lambda host: 0,
        route: Route | None = None,
        limits: LinkLimits = LIMITS,
    ) -> None:
        """`wanted_segment(host)` is the largest TCP segment to ask `host` for, 0 for any; `route`
        is None for a direct connection."""
        self._route = route
        self._limits = limits
        self._credentials = credentials
        self._on_link = on_link
        self._on_error = on_error
        self._dialer = dialer
        self._expected = expected
        self._wanted_segment = wanted_segment
        self._handshake: Handshake | None = None
        self._transport: asyncio.Transport | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open (asyncio.BaseProtocol)."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        remote = remote_of(self._transport)
        self._handshake = Handshake(
            self._credentials,
            dialer=self._dialer,
            remote=remote if remote[0] and not self._is_relayed else None,
            expected=self._expected,
            segment_bytes=self._wanted_segment(remote[0]) if remote[0] else 0,
        )
        if self._dialer:
            self._transport.write(self._handshake.start())

    @property
    def _is_relayed(self) -> bool:
        return self._route is not None and self._route.is_relayed

    def data_received(self, data: bytes) -> None:
        """Bytes arrived from the other side (asyncio.Protocol)."""
        if self._over or self._handshake is None or self._transport is None:
            return
        try:
            answer = self._handshake.receive(data)
        except AitorrentError as e:
            self._part(self._handshake.parting)
            self.fail(e)
            return
        if answer:
            self._transport.write(answer)
        result = self._handshake.result
        if result is not None:
            self._over = True
            self._transport.pause_reading()
            remote = remote_of(self._transport)
            link = Link(
                self._transport,
                result,
                outbound=self._dialer,
                remote=remote,
                route=self._route or direct_route(remote),
                arrived=self._handshake.rest,
                limits=self._limits,
            )
            on_link = self._on_link
            self._let_go()
            on_link(link)

    def fail(self, error: AitorrentError) -> None:
        """Give up: abort the connection, unless it already closes with a last message."""
        if not self._over:
            self._over = True
            if self._transport is not None and not self._transport.is_closing():
                self._transport.abort()
            on_error = self._on_error
            self._let_go()
            on_error(error)

    def _part(self, message: bytes) -> None:
        if message and self._transport is not None:
            self._transport.write(message)
            self._transport.close()

    def _let_go(self) -> None:
        """Drop back references, so that no cycle keeps the connection in memory."""
        self._on_link = lambda link: None
        self._on_error = lambda error: None
        self._handshake = None

    def refuse(self, refusal: Refusal) -> None:
        """End the handshake and send the dialer the reason; `on_error` is not called."""
        if not self._over and self._transport is not None:
            self._over = True
            self._transport.write(refusal.encode())
            self._transport.close()
            self._let_go()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side disconnected (asyncio.BaseProtocol)."""
        self.fail(
            Unavailable(
                "the connection was closed during the handshake; the other node may belong to "
                "another network, use another pre-shared key, have a wrong clock, or refuse "
                "this node"
            )
        )


def why(error: OSError) -> str:
    """A readable operating system error: `connection refused (ECONNREFUSED)`."""
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if error.errno is None:
        return str(error)
    text = os.strerror(error.errno).lower()
    return f"{text} ({errno.errorcode.get(error.errno, error.errno)})"
