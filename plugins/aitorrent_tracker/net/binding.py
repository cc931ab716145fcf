"""Binds one port number for TCP and UDP at every address to listen on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from aitorrentd.api import Unavailable
from aitorrentd.api.network.addresses import host_port

_ATTEMPTS: Final = 8
"Numbers to try for a port that must be free at every address."
_NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_RECEIVE_BYTES: Final = 4 * 2**20
"For bursts of datagrams; the kernel may grant less."


class Bound(NamedTuple):
    """Sockets with one port number."""

    port: int
    tcp: list[socket.socket]
    udp: list[socket.socket]


def bind(hosts: Sequence[str], port: int, *, udp: bool) -> Bound:
    """Bind `port` at every host, which are IP addresses; 0 = a number that is free everywhere.

    Raises:
        Unavailable: it is taken, or an address is not of this machine.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _bind_all(hosts, port, udp=udp)
        except Unavailable:
            if port or attempt == _ATTEMPTS - 1:
                raise
    raise Unavailable("no port number is free")


def _bind_all(hosts: Sequence[str], port: int, *, udp: bool) -> Bound:
    bound = Bound(port, [], [])
    try:
        for host in hosts:
            for kind, sockets in ((socket.SOCK_STREAM, bound.tcp), (socket.SOCK_DGRAM, bound.udp)):
                if kind == socket.SOCK_STREAM or udp:
                    sock = _bind_one(host, bound.port, kind, others=bool(bound.tcp))
                    if sock is not None:
                        sockets.append(sock)
                        bound = bound._replace(port=sock.getsockname()[1])
        if not bound.tcp:
            raise Unavailable("no address to listen on is available on this machine")
    except BaseException:
        for sock in (*bound.tcp, *bound.udp):
            sock.close()
        raise
    return bound


def _bind_one(
    host: str, port: int, kind: socket.SocketKind, *, others: bool
) -> socket.socket | None:
    """A bound socket; None where `::` cannot be bound because there is no IPv6."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.bind((host, port))
    except OSError as e:
        if sock is not None:
            sock.close()
        if host == "::" and others and e.errno in _NO_IPV6:
            return None
        name = "tcp" if kind == socket.SOCK_STREAM else "udp"
        reason = (e.strerror or str(e)).lower()
        raise Unavailable(
            f"cannot listen on {host_port(host, port)}/{name}: {reason}; free the port, or set"
            " plugins.tracker.port or plugins.tracker.listen"
        ) from None
    return sock
