"""The mirror: a TCP connection that tells its other end from which address it came.

It begins with `AITO` on the peer port, and needs no identity: a node asks from the very port from
which it will punch, so that it learns the mapping of that port. The reply is smaller than what a
connection costs its sender.

    request   AITO
    reply     AITO, u8 4 or 6, the IP address, u16 the port; all after AITO XORed with 0xA5

The XOR keeps routers that rewrite addresses in payloads from doing so (RFC 8489, section 14.2).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from aitorrentd.api import ProtocolError
from aitorrentd.api.limits import MAX_ENTRIES, InUse, PerPeer, TokenBucket

MAGIC: Final = b"AITO"
HOLD_S: Final = 20.0
"The asking end keeps the connection while it punches, so that its mapping stays."
ANSWER_S: Final = 1.5
MAX_OPEN: Final = 128
MAX_PER_NETWORK: Final = 8
"Open at the same time, and in a burst; one punch takes two."
RATE: Final = 0.5
"Further requests per second of one network."
_XOR: Final = 0xA5
_MAX_REPLY: Final = len(MAGIC) + 1 + 16 + 2

HostPort = tuple[str, int]


def encode_reply(remote: HostPort) -> bytes:
    """What the mirror says to the other end of a connection from `remote`.

    Raises:
        ValueError: not an IP address.
    """
    ip = ipaddress.ip_address(remote[0].partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    body = bytes([ip.version]) + ip.packed + struct.pack(">H", remote[1])
    return MAGIC + bytes(byte ^ _XOR for byte in body)


def decode_reply(reply: bytes) -> HostPort | None:
    """The address in a reply, or None while it is incomplete.

    Raises:
        ProtocolError: not a reply.
    """
    if not MAGIC.startswith(reply[: len(MAGIC)]):
        raise ProtocolError("the mirror's reply does not begin with AITO")
    body = bytes(byte ^ _XOR for byte in reply[len(MAGIC) :])
    if not body:
        return None
    if body[0] not in (4, 6):
        raise ProtocolError("the mirror's reply is neither of IPv4 nor of IPv6")
    ip_bytes = 4 if body[0] == 4 else 16
    if len(body) < 1 + ip_bytes + 2:
        return None
    if len(body) > 1 + ip_bytes + 2:
        raise ProtocolError("bytes after the mirror's reply")
    (port,) = struct.unpack_from(">H", body, 1 + ip_bytes)
    return str(ipaddress.ip_address(body[1 : 1 + ip_bytes])), port


class Mirror:
    """Serves the mirror on the peer port (`aitorrentd.api` Preface)."""

    magic = MAGIC

    def __init__(self, now: Callable[[], float]) -> None:
        self.answered = 0
        self.refused = 0
        self._now = now
        self._open: InUse[str] = InUse()
        self._total = 0
        self._buckets = PerPeer(
            lambda: TokenBucket(RATE, MAX_PER_NETWORK, now()), max_entries=MAX_ENTRIES
        )

    def serve(self, remote: HostPort, accept: Callable[[], None]) -> asyncio.Protocol:
        """See Preface."""
        return _Reflection(self, remote, accept)

    def admit(self, network: str) -> bool:
        """Count a connection from `network`; whether it gets an answer."""
        if (
            self._total >= MAX_OPEN
            or not self._buckets.of(network).take(self._now())
            or not self._open.take(network, MAX_PER_NETWORK)
        ):
            self.refused += 1
            return False
        self._total += 1
        self.answered += 1
        return True

    def release(self, network: str) -> None:
        """A connection that was admitted ended."""
        self._total -= 1
        self._open.release(network)


class _Reflection(asyncio.Protocol):
    """One connection to the mirror."""

    def __init__(self, mirror: Mirror, remote: HostPort, accept: Callable[[], None]) -> None:
        self._mirror = mirror
        self._remote = remote
        self._accept = accept
        self._network = network_of(remote[0])
        self._transport: asyncio.Transport | None = None
        self._asked = b""
        self._admitted = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._admitted:
            return  # whatever follows the request is not read
        self._asked += data[: len(MAGIC)]
        if len(self._asked) < len(MAGIC):
            return
        if not self._mirror.admit(self._network):
            self._transport.abort()
            return
        self._admitted = True
        self._accept()
        self._transport.write(encode_reply(self._remote))
        self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._admitted:
            self._mirror.release(self._network)


def network_of(host: str) -> str:
    """The network that shares one allowance: a /24 of IPv4, a /56 of IPv6; `host` otherwise."""
    try:
        ip: Any = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 56), strict=False))


async def ask(sock: socket.socket, mirror: HostPort) -> HostPort:
    """Connect the bound, non-blocking `sock` to `mirror`, and return what it is seen as there.

    The socket stays connected. The caller bounds the time.

    Raises:
        OSError: no connection. ProtocolError: no mirror.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, mirror)
    await loop.sock_sendall(sock, MAGIC)
    reply = b""
    while True:
        received = await loop.sock_recv(sock, _MAX_REPLY + 1 - len(reply))
        if not received:
            raise ProtocolError("the mirror does not answer now")
        reply += received
        found = decode_reply(reply)
        if found is not None:
            return found
