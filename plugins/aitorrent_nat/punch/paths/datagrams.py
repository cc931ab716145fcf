"""A path: datagrams to and from one remote address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from aitorrentd.api.network.datagrams import open_datagrams

BUFFER_BYTES: Final = 4 * 2**20
"Of the kernel, in each direction, for datagrams that arrive while the event loop is busy."
# linux/in.h and linux/in6.h; the socket module has no names for them.
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
"Never fragment, and do not believe what other connections learned about the path."

HostPort = tuple[str, int]


class Path(Protocol):
    """Datagrams to and from `remote`. Order and delivery are not guaranteed."""

    @property
    def local(self) -> HostPort:
        """This end, as the socket is bound."""

    @property
    def remote(self) -> HostPort:
        """The peer's end."""

    @property
    def is_sized(self) -> bool:
        """Whether a datagram too large for the path is dropped, and never fragmented."""

    def listen(self, on_datagram: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """Deliver to these from now on; `on_lost` is called at most once, with the reason."""

    def send(self, datagram: bytes) -> None:
        """Send `datagram`, unless the kernel has no room for it."""

    def close(self) -> None:
        """Release the sockets; nothing is delivered any more."""


def keep_whole(sock: socket.socket) -> bool:
    """Forbid fragmentation on `sock`, and enlarge its buffers; whether the former worked."""
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    except OSError:
        return False
    return True


class SocketPath(asyncio.DatagramProtocol):
    """A path on a UDP socket of its own. Datagrams from other addresses are dropped."""

    def __init__(self, remote: HostPort) -> None:
        self.remote = remote
        self.is_sized = False
        self._transport: asyncio.DatagramTransport | None = None
        self._on_datagram: Callable[[bytes], None] = lambda datagram: None
        self._on_lost: Callable[[str], None] = lambda reason: None

    @classmethod
    async def over(cls, sock: socket.socket, remote: HostPort) -> SocketPath:
        """The path to `remote` over a bound socket, which it owns from now on."""
        path = cls(remote)
        path.is_sized = keep_whole(sock)
        await open_datagrams(lambda: path, sock=sock)
        return path

    @property
    def local(self) -> HostPort:
        """See Path."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return (name[0], name[1]) if name else ("", 0)

    def listen(self, on_datagram: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        """See Path."""
        self._on_datagram, self._on_lost = on_datagram, on_lost

    def send(self, datagram: bytes) -> None:
        """See Path."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, self.remote)

    def close(self) -> None:
        """See Path."""
        self.listen(lambda datagram: None, lambda reason: None)
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ready (asyncio.BaseProtocol)."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """A datagram arrived (asyncio.DatagramProtocol)."""
        if (addr[0], addr[1]) == self.remote:
            self._on_datagram(data)

    def error_received(self, exc: Exception) -> None:
        """A datagram was rejected, for example by ICMP: whatever matters is sent again."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed (asyncio.BaseProtocol)."""
        self._on_lost("the socket was closed" if exc is None else str(exc))
