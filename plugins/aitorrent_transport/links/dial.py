"""Dialling a peer, and in-process link pairs. The listening side is in `listener`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from aitorrent_transport.links.handshaking import HandshakeProtocol, why
from aitorrent_transport.links.link import LIMITS, Link, LinkLimits
from aitorrent_transport.links.masking import MaskedDialer
from aitorrent_transport.links.path import StalledPaths
from aitorrent_transport.links.racing import connect_tcp
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import HANDSHAKE_S
from aitorrentd.api import AitorrentError, Busy, PeerId, TimedOut, Unavailable
from aitorrentd.api.descriptors import is_scarce, limit
from aitorrentd.api.network.addresses import Address, host_port
from aitorrentd.api.network.resolver import Resolver
from aitorrentd.api.network.routes import MakeProtocol, Route


class DirectDialer:
    """Implements `aitorrentd.api.Dialer`: TCP to the address, or to the addresses of its name."""

    name = "direct"

    def __init__(self, paths: StalledPaths) -> None:
        self._resolver = Resolver()
        self._paths = paths

    def can_try(self, address: Address) -> bool:
        """Whether the peer itself listens at `address`."""
        return address.relay is None

    def route(self, address: Address) -> None:
        """None: it leads directly to the peer."""
        return None

    async def connect(self, address: Address, make_protocol: MakeProtocol) -> asyncio.Transport:
        """See `aitorrentd.api.Dialer.connect`."""
        version = {"dns4": 4, "dns6": 6}.get(address.family, 0)
        return await connect_tcp(
            make_protocol, address.host, address.port, self._resolver, self._paths, version
        )


async def dial(
    host: str,
    port: int,
    credentials: Credentials,
    *,
    expected: PeerId | None = None,
    masked: bool = False,
    timeout_s: float = 10.0,
    connect: Callable[[MakeProtocol], Awaitable[asyncio.Transport]] | None = None,
    route: Route | None = None,
    dialer: bool = True,
    limits: LinkLimits = LIMITS,
) -> Link:
    """Open a link to the peer that listens on `host` and `port`.

    `expected` rejects every other peer. With `masked` the connection looks like a WebSocket.
    `connect` opens the connection, on the `route` if it is not direct; the default is TCP, racing
    all addresses of a name. Unless this side is the `dialer`, the other one begins the handshake.
    The link is returned unstarted.

    Raises:
        Unavailable: nothing answers there, or an unexpected peer does. TimedOut: not complete
        within `timeout_s`. ProtocolError: the other side breaks the protocol or belongs to another
        network. Busy: the listener temporarily refuses connections, or this process is out of file
        descriptors.
    """
    loop = asyncio.get_running_loop()
    # Errors are results, not exceptions: a raised one would form a reference cycle with this frame.
    done: asyncio.Future[Link | AitorrentError] = loop.create_future()

    def on_link(link: Link) -> None:
        if done.done():
            link.abort()
        else:
            done.set_result(link)

    def on_error(error: AitorrentError) -> None:
        if not done.done():
            done.set_result(error)

    where = route.location if route is not None else host_port(host, port)
    shake = HandshakeProtocol(
        credentials,
        on_link,
        on_error,
        dialer=dialer,
        expected=expected,
        route=route,
        limits=limits,
    )
    outer: asyncio.Protocol = MaskedDialer(shake, host, port, on_error) if masked else shake
    transport: asyncio.Transport | None = None
    link: Link | None = None
    try:
        async with asyncio.timeout(timeout_s):
            if connect is not None:
                transport = await connect(lambda: outer)
            else:
                transport = await connect_tcp(lambda: outer, host, port, Resolver())
            sock = transport.get_extra_info("socket")
            if sock is not None and is_scarce(sock.fileno()):
                raise Busy(
                    "this process has no file descriptors left for more peers"
                    f" (its limit is {limit()}); raise it, for example with LimitNOFILE="
                )
            async with asyncio.timeout(HANDSHAKE_S):
                outcome = await done
            if isinstance(outcome, AitorrentError):
                raise type(outcome)(outcome.message, **outcome.data)
            link = outcome
        return link
    except TimeoutError:
        if transport is None:
            raise TimedOut(f"{where} did not answer in time") from None
        raise TimedOut(
            f"{where} accepted the connection but did not finish the handshake in time"
        ) from None
    except OSError as e:
        causes = {"unresolved": True} if isinstance(e, socket.gaierror) else {}
        raise Unavailable(f"{where} cannot be reached: {why(e)}", **causes) from None
    except AitorrentError as e:
        raise type(e)(f"{where}: {e.message}", **e.data) from None
    finally:
        if link is None and transport is not None and not transport.is_closing():
            transport.abort()
        done.cancel()


async def link_in_process(
    a: Credentials, b: Credentials, limits: LinkLimits = LIMITS
) -> tuple[Link, Link]:
    """Both ends of a link over a socket pair, dialer first.

    Raises:
        ProtocolError, Unavailable: see `dial`.
    """
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[Link]] = [loop.create_future(), loop.create_future()]
    transports: list[asyncio.Transport] = []

    async def attach(
        sock: socket.socket, end: asyncio.Future[Link], credentials: Credentials, dialer: bool
    ) -> None:
        def on_link(link: Link) -> None:
            if not end.done():
                end.set_result(link)

        def on_error(error: AitorrentError) -> None:
            if not end.done():
                end.set_exception(error)

        shake = HandshakeProtocol(credentials, on_link, on_error, dialer=dialer, limits=limits)
        transport, _ = await loop.create_unix_connection(lambda: shake, sock=sock)
        transports.append(transport)

    one, other = socket.socketpair()
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            await attach(one, ends[0], a, True)
            await attach(other, ends[1], b, False)
            first, second = await asyncio.gather(*ends)
            return first, second
    finally:
        if not all(end.done() and not end.cancelled() and not end.exception() for end in ends):
            for transport in transports:
                transport.abort()
            for sock in (one, other)[len(transports) :]:
                sock.close()
