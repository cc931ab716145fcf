"""STUN servers for tests: honest ones of two kinds, and some that are of no use."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from aitorrent_nat.networks import Place
from aitorrent_nat.stun.responding import Responder
from aitorrent_nat.stun.sockets import UdpSocket

Reply = Callable[[bytes, Place], list[tuple[bytes, Place]]]
"Returns the datagrams, each with its destination, that a request from a place leads to."


@contextmanager
def server(reply: Reply, host: str = "127.0.0.1") -> Iterator[Place]:
    """A server that does what `reply` says."""

    def received(raw: bytes, source: Place, own: str) -> None:
        for datagram, to in reply(raw, source):
            sock.send(datagram, to)

    sock = UdpSocket(host, 0, received)
    try:
        yield host, sock.port
    finally:
        sock.close()


@contextmanager
def rfc5780_server(hosts: tuple[str, str] = ("127.0.0.1", "127.0.0.2")) -> Iterator[Place]:
    """The product's responder at two addresses with two ports each."""
    responder = Responder(0.0)
    loop = asyncio.get_running_loop()
    sockets: dict[tuple[str, bool], UdpSocket] = {}

    def at(host: str, port: int, *, alternate: bool) -> UdpSocket:
        def received(raw: bytes, source: Place, own: str) -> None:
            reply = responder.answer(
                raw, source, host, loop.time(), to_alternate=alternate, hosts=hosts
            )
            if reply is not None:
                sockets[reply.host, reply.from_alternate].send(reply.raw, reply.to)

        return UdpSocket(host, port, received)

    for alternate in (False, True):
        first = sockets[hosts[0], alternate] = at(hosts[0], 0, alternate=alternate)
        sockets[hosts[1], alternate] = at(hosts[1], first.port, alternate=alternate)
    responder.ports = (sockets[hosts[0], False].port, sockets[hosts[0], True].port)
    try:
        yield hosts[0], responder.ports[0]
    finally:
        for sock in sockets.values():
            sock.close()


@asynccontextmanager
async def rfc3489_server(
    hosts: tuple[str, str] = ("127.0.0.1", "127.0.0.2"),
) -> AsyncIterator[Place]:
    """A server written from RFC 3489, which knows neither the magic cookie nor later attributes.

    It replies to its own clients only: a request whose transaction id begins with the magic cookie
    is from another standard.
    """
    socks: dict[tuple[str, int], UdpSocket] = {}
    ports: list[int] = []

    def at(i: int, j: int) -> None:
        def received(raw: bytes, source: Place, own: str) -> None:
            if raw[:2] != b"\0\1" or raw[4:8] == b"\x21\x12\xa4\x42":
                return
            change = int.from_bytes(raw[24:28]) if raw[20:24] == b"\0\3\0\4" else 0
            a, b = i ^ bool(change & 4), j ^ bool(change & 2)
            body = b"".join(
                struct.pack("!HHBBH", kind, 8, 0, 1, port) + socket.inet_aton(host)
                for kind, (host, port) in (
                    (0x0001, source),  # MAPPED-ADDRESS
                    (0x0004, (hosts[a], ports[b])),  # SOURCE-ADDRESS
                    (0x0005, (hosts[1 - i], ports[1 - j])),  # CHANGED-ADDRESS
                )
            )
            reply = struct.pack("!HH", 0x0101, len(body)) + raw[4:20] + body
            socks[hosts[a], b].send(reply, source)

        port = ports[j] if j < len(ports) else 0
        sock = socks[hosts[i], j] = UdpSocket(hosts[i], port, received)
        if j == len(ports):
            ports.append(sock.port)

    for j in (0, 1):
        for i in (0, 1):
            at(i, j)
    try:
        yield hosts[0], ports[0]
    finally:
        for sock in socks.values():
            sock.close()
