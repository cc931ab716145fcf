"""Listening for peers.

A listener takes plain and masked connections on the same port and tells them apart by their first
four bytes; it holds a bounded number of connections that have not yet authenticated, each under a
deadline, and refuses newer ones while it is full.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Callable
from typing import Final, cast

from aitorrent_transport.links.handshaking import HandshakeProtocol, remote_of, why
from aitorrent_transport.links.link import Link
from aitorrent_transport.links.masking import GET, MaskedListener
from aitorrent_transport.secure.certificate import Credentials
from aitorrent_transport.secure.handshake import HANDSHAKE_S, MAGIC
from aitorrent_transport.secure.hello import HostPort
from aitorrentd.api import AitorrentError, ProtocolError, TimedOut, Unavailable
from aitorrentd.api.limits import InUse

MAX_HALF_OPEN: Final = 64
MAX_HALF_OPEN_PER_NET: Final = 4
BACKLOG: Final = 256

log = logging.getLogger("aitorrentd.transport")


class _Doorman(asyncio.Protocol):
    """Holds a new connection until its first four bytes say what it speaks."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._first = b""
        self._shake = listener.handshake(self)
        self.net = ""
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if not self._listener.admit(self, remote_of(self._transport)[0]):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self.deadline is None:
            return
        self._first += data
        start = self._first[: len(MAGIC)]
        if start == MAGIC:
            self._hand_over(self._shake)
        elif start == GET:
            self._hand_over(MaskedListener(self._shake))
        elif not MAGIC.startswith(start) and not GET.startswith(start):
            self.end(ProtocolError("the connection does not speak this protocol"))

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        if self._transport is None:
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        first, self._first = self._first, b""
        protocol.data_received(first)

    def end(self, error: AitorrentError) -> None:
        """Cut the connection, which has not authenticated."""
        self._listener.dismiss(self, error)
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.dismiss(self, Unavailable("the connection was closed"))


class Listener:
    """Accepts peers. `on_link` gets each link after its handshake, not yet started.

    Masked and plain connections are both accepted. At most `max_half_open` connections, and
    MAX_HALF_OPEN_PER_NET of one IPv4 /24 or IPv6 /56, may be without a finished handshake; further
    ones are cut. Loopback counts only towards the total. Each has `deadline_s` to finish.
    """

    def __init__(
        self,
        credentials: Credentials,
        on_link: Callable[[Link], None],
        *,
        max_half_open: int = MAX_HALF_OPEN,
        deadline_s: float = HANDSHAKE_S,
    ) -> None:
        self._credentials = credentials
        self._on_link = on_link
        self._max_half_open = max_half_open
        self._deadline_s = deadline_s
        self._servers: list[asyncio.Server] = []
        self._half_open: set[_Doorman] = set()
        self._per_net: InUse[str] = InUse()
        self._closed = False
        self.accepted = 0
        self.refused = 0
        self.failed = 0

    async def listen(self, host: str, port: int) -> HostPort:
        """Listen at one more address; returns it with its real port.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Doorman(self), host, port, backlog=BACKLOG)
        except OSError as e:
            raise Unavailable(_why_not_listening(host, port, e)) from None
        self._servers.append(server)
        name = server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def close(self) -> None:
        """Stop accepting and cut unfinished handshakes; links live on with their owner."""
        self._closed = True
        await self.unlisten()

    async def unlisten(self) -> None:
        """Give all addresses up, with the unfinished handshakes there; others may follow."""
        for server in self._servers:
            server.close()
        for doorman in list(self._half_open):
            doorman.end(Unavailable("the listener closed"))
        self._servers.clear()
        # uvloop closes listening sockets on its next pass.
        await asyncio.sleep(0)

    def statistics(self) -> dict[str, int]:
        """Counters for people: links made, connections refused unread, handshakes that failed."""
        return {
            "accepted": self.accepted,
            "refused": self.refused,
            "failed": self.failed,
            "half_open": len(self._half_open),
        }

    def handshake(self, doorman: _Doorman) -> HandshakeProtocol:
        """The handshake for a new connection."""

        def on_link(link: Link) -> None:
            self._forget(doorman)
            self.accepted += 1
            self._on_link(link)

        return HandshakeProtocol(
            self._credentials,
            on_link,
            lambda error: self.dismiss(doorman, error),
            dialer=False,
        )

    def admit(self, doorman: _Doorman, host: str) -> bool:
        """Whether a new connection may begin its handshake; then its deadline runs."""
        net = _net(host)
        crowded = net != "" and self._per_net.of(net) >= MAX_HALF_OPEN_PER_NET
        if self._closed or crowded or len(self._half_open) >= self._max_half_open:
            self.refused += 1
            return False
        doorman.net = net
        doorman.deadline = asyncio.get_running_loop().call_later(
            self._deadline_s,
            doorman.end,
            TimedOut(f"no handshake within {self._deadline_s:g} s"),
        )
        self._half_open.add(doorman)
        if net:
            self._per_net.take(net, MAX_HALF_OPEN_PER_NET)
        return True

    def dismiss(self, doorman: _Doorman, error: AitorrentError) -> None:
        """A connection failed before it authenticated."""
        if doorman in self._half_open:
            self._forget(doorman)
            self.failed += 1
            log.debug("inbound handshake failed: %s", error.message)

    def _forget(self, doorman: _Doorman) -> None:
        self._half_open.discard(doorman)
        if doorman.deadline is not None:
            doorman.deadline.cancel()
        if doorman.net:
            self._per_net.release(doorman.net)
            doorman.net = ""


def _net(host: str) -> str:
    """The network that shares a half-open allowance; "" for loopback and nameless sockets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return ""
    prefix = 24 if address.version == 4 else 56
    return str(ipaddress.ip_network((address, prefix), strict=False))


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    code = errno.errorcode.get(error.errno or 0, "")
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port}/tcp is taken (EADDRINUSE); set plugins.transport.port,"
            " or 0 for any free one"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"no permission to listen on port {port}/tcp ({code}); set plugins.transport.port"
            " to one above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine ({code}); set plugins.transport.listen"
    return f"cannot listen on {host} port {port}/tcp: {why(error)}"
