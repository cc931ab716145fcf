"""The UDP sockets of a node: bound beside the transport's TCP ports, for as long as the node runs.

An address or port that is not free is tried again with growing waits; the node goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.network.datagrams import open_datagrams
from aitorrentd.api.tasks import Tasks

MAX_WAIT_S: Final = 60.0
_RECEIVE_BYTES: Final = 1 << 20
"Room for bursts of answers while the loop is busy."

log = logging.getLogger("aitorrentd.dht")

OnDatagram = Callable[[bytes, str, int], None]
Place = tuple[str, int]


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, endpoint: Endpoint, host: str, on_datagram: OnDatagram) -> None:
        self._endpoint = endpoint
        self._host = host
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._endpoint.bytes_in += len(data)
        self._on_datagram(data, addr[0], addr[1])

    def error_received(self, exc: Exception) -> None:
        # An ICMP error for some earlier datagram: its request will time out.
        self._endpoint.errors += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._endpoint.lost(self._host, exc)


class Endpoint:
    """UDP sockets, one for each address family; `draw` returns random numbers in [0, 1)."""

    def __init__(
        self,
        on_datagram: OnDatagram,
        tasks: Tasks,
        draw: Callable[[], float],
        *,
        first_wait_s: float = 1.0,
    ) -> None:
        self.bound: dict[str, int] = {}
        "Host and actual port of each socket."
        self.waiting: dict[str, str] = {}
        "Hosts that are not bound, each with the reason."
        self.on_bound: Callable[[], None] = lambda: None
        self.bytes_in = 0
        self.bytes_out = 0
        self.errors = 0
        self._on_datagram = on_datagram
        self._tasks = tasks
        self._draw = draw
        self._first_wait_s = first_wait_s
        self._transports: dict[str, asyncio.DatagramTransport] = {}
        self._wanted: set[Place] = set()
        self._is_closed = False

    async def bind(self, places: Sequence[Place]) -> None:
        """Bind these addresses now, or as soon as it is possible; those bound already stay."""
        for host, port in places:
            if host in {h for h, _ in self._wanted}:
                continue
            self._wanted.add((host, port))
            if not await self._try(host, port):
                log.warning("%s; retrying until it succeeds", self.waiting[host])
                self._tasks.spawn(self._retry(host, port), f"bind {host}/udp")

    async def _retry(self, host: str, port: int) -> None:
        attempt = 0
        while True:
            wait_s = equal_jitter_s(
                attempt, base_s=self._first_wait_s, cap_s=MAX_WAIT_S, draw=self._draw()
            )
            await asyncio.sleep(wait_s)
            attempt += 1
            if await self._try(host, port):
                log.info("now listening on %s/udp", host_port(host, self.bound[host]))
                return

    async def _try(self, host: str, port: int) -> bool:
        try:
            sock = _socket(host, port)
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            self.waiting[host] = (
                f"cannot listen on {host_port(host, port)}/udp: {reason}; free the port, or set"
                " plugins.dht.port to another one (0 for any free one)"
            )
            return False
        transport, _ = await open_datagrams(
            lambda: _Receiver(self, host, self._on_datagram), sock=sock
        )
        self._transports[host] = transport
        self.bound[host] = sock.getsockname()[1]
        self.waiting.pop(host, None)
        self.on_bound()
        return True

    def lost(self, host: str, error: Exception | None) -> None:
        """Note that a socket closed; unless this node closed it, it is bound again."""
        self._transports.pop(host, None)
        port = self.bound.pop(host, None)
        if self._is_closed or port is None:
            return
        self.waiting[host] = f"the socket on {host_port(host, port)}/udp was lost: {error}"
        log.warning("%s; binding it again", self.waiting[host])
        self._tasks.spawn(self._retry(host, port), f"bind {host}/udp")

    def send(self, raw: bytes, host: str, port: int) -> None:
        """Send a datagram, or drop it: a network that is down is like one that loses it."""
        is_ip6 = ":" in host
        for own, transport in self._transports.items():
            if (":" in own) == is_ip6:
                try:
                    transport.sendto(raw, (host, port))
                except OSError:
                    self.errors += 1
                else:
                    self.bytes_out += len(raw)
                return
        self.errors += 1

    def close(self) -> None:
        """Close every socket."""
        self._is_closed = True
        for transport in list(self._transports.values()):
            transport.close()


def _socket(host: str, port: int) -> socket.socket:
    """A bound UDP socket.

    Raises:
        OSError: the address is not here, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
