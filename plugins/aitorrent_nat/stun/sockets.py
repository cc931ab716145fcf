"""UDP sockets that tell to which own address a datagram came, and send from the one they are told.

asyncio's datagram transports cannot do that on a socket that is bound to every address, so these
are plain sockets that the event loop watches. See ip(7) and ipv6(7), IP_PKTINFO.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Final

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.codec import MAX_BYTES

BURST: Final = 32
"Datagrams read before other work of the event loop gets its turn."
_RECEIVE_BYTES: Final = 256 * 2**10
# Missing from the socket module of Python 3.11.
_IP_PKTINFO: Final = 8
_PKTINFO4: Final = struct.Struct("=i4s4s")
_PKTINFO6: Final = struct.Struct("=16si")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(max(_PKTINFO4.size, _PKTINFO6.size))

OnDatagram = Callable[[bytes, Place, str], None]
"Gets a datagram, its source, and the own address it was sent to."


class UdpSocket:
    """A bound UDP socket.

    Raises:
        OSError: the address is not here, or the port is taken.
    """

    def __init__(self, host: str, port: int, on_datagram: OnDatagram) -> None:
        self.host = host
        self._is_ip6 = ":" in host
        self._on_datagram = on_datagram
        self._sock = socket.socket(
            socket.AF_INET6 if self._is_ip6 else socket.AF_INET,
            socket.SOCK_DGRAM | socket.SOCK_NONBLOCK,
        )
        try:
            if self._is_ip6:
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                self._sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
            self._sock.bind((host, port))
        except OSError:
            self._sock.close()
            raise
        self.port: int = self._sock.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._read)

    def _read(self) -> None:
        for _ in range(BURST):
            try:
                raw, ancillary, _, source = self._sock.recvmsg(MAX_BYTES + 1, _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for an earlier datagram
            self._on_datagram(raw, (source[0], source[1]), self._own(ancillary))

    def _own(self, ancillary: list[tuple[int, int, bytes]]) -> str:
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return socket.inet_ntop(socket.AF_INET, _PKTINFO4.unpack(value)[2])
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                return socket.inet_ntop(socket.AF_INET6, _PKTINFO6.unpack(value)[0])
        return self.host

    def send(self, raw: bytes, to: Place, host: str = "") -> bool:
        """Send a datagram, from the own address `host` if given; whether the kernel took it."""
        ancillary: list[tuple[int, int, bytes]] = []
        if host and self._is_ip6:
            value = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, host), 0)
            ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, value)]
        elif host:
            value = _PKTINFO4.pack(0, socket.inet_pton(socket.AF_INET, host), bytes(4))
            ancillary = [(socket.IPPROTO_IP, _IP_PKTINFO, value)]
        try:
            self._sock.sendmsg([raw], ancillary, 0, to)
        except OSError:
            return False  # no route, or a full buffer: to the other end like a lost datagram
        return True

    def close(self) -> None:
        """Close the socket."""
        self._loop.remove_reader(self._sock)
        self._sock.close()


def local_host(to: Place) -> str:
    """The own address from which the kernel would send to this place; sends nothing.

    Raises:
        OSError: there is no route.
    """
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(to)
        return str(sock.getsockname()[0])


def is_here(host: str) -> bool:
    """Whether this machine has the IP address."""
    try:
        with socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM
        ) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True
