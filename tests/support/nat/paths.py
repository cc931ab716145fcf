"""Paths between two ends in this process, through a proxy that loses, delays and reorders."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aitorrent_nat.punch.paths.datagrams import HostPort, SocketPath
from aitorrent_nat.punch.paths.quic_transport import QuicTransport

LOCAL = "127.0.0.1"


class Weather:
    """What happens to datagrams on the way."""

    def __init__(
        self,
        *,
        loss: float = 0.0,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
        largest: int = 65_535,
        seed: int = 1,
    ) -> None:
        self.loss = loss
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.largest = largest
        self.passed = 0
        self.passed_bytes = 0
        self._draws = random.Random(seed)

    def forward(self, datagram: bytes, send: Callable[[bytes], None]) -> None:
        if len(datagram) > self.largest or self._draws.random() < self.loss:
            return
        self.passed += 1
        self.passed_bytes += len(datagram)
        wait_s = self.delay_s + self.jitter_s * self._draws.random()
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, send, datagram)
        else:
            send(datagram)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.to: Callable[[bytes], None] = lambda datagram: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.weather.forward(data, self.to)


def _send(transport: Any, to: HostPort, datagram: bytes) -> None:
    transport.sendto(datagram, to)


def local_socket() -> socket.socket:
    """A UDP socket on loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind((LOCAL, 0))
    return sock


@asynccontextmanager
async def paths(weather: Weather | None = None) -> AsyncIterator[tuple[SocketPath, SocketPath]]:
    """Both ends of a path, directly connected or through `weather`."""
    socks = local_socket(), local_socket()
    names: list[HostPort] = [sock.getsockname() for sock in socks]
    closing: list[Any] = []
    remotes = names[::-1]
    if weather is not None:
        loop = asyncio.get_running_loop()
        sides = []
        for _ in range(2):
            sock = local_socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
            transport, side = await loop.create_datagram_endpoint(lambda: _Side(weather), sock=sock)
            sides.append(side)
            closing.append(transport)
        # Each side faces one end: what it gets there leaves through the other.
        for near, far, name in zip(sides, sides[::-1], names[::-1], strict=True):
            near.to = partial(_send, far.transport, name)
        remotes = [side.transport.get_extra_info("sockname") for side in sides]
    ends = [
        await SocketPath.over(sock, remote) for sock, remote in zip(socks, remotes, strict=True)
    ]
    try:
        yield ends[0], ends[1]
    finally:
        for each in (*ends, *closing):
            each.close()
        await asyncio.sleep(0)


class Recorder(asyncio.Protocol):
    """Collects what a transport delivers."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.can_write = asyncio.Event()
        self.can_write.set()
        self.pauses = 0
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.keep_open = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.ended = True
        return self.keep_open

    def pause_writing(self) -> None:
        self.pauses += 1
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)

    async def send(self, data: bytes, chunk: int = 65_536) -> None:
        """Write `data`, as fast as the transport accepts it."""
        for at in range(0, len(data), chunk):
            self.transport.write(data[at : at + chunk])
            await self.can_write.wait()


class BufferedRecorder(asyncio.BufferedProtocol):
    """Collects into a buffer, as the transport's link does."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.transport: Any = None
        self.stop_at: int | None = None
        self._space = bytearray(10_000)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._space)

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._space[:nbytes]
        if self.stop_at is not None and len(self.received) >= self.stop_at:
            self.transport.pause_reading()


async def connected(
    ends: tuple[Any, Any],
    client: Callable[[], Any] = Recorder,
    server: Callable[[], Any] = Recorder,
    **settings: Any,
) -> tuple[Any, Any]:
    """The protocols at both ends of QUIC on a path."""
    transports = await asyncio.gather(
        QuicTransport.over(ends[0], client, is_client=True, **settings),
        QuicTransport.over(ends[1], server, is_client=False, **settings),
    )
    one, other = (each.get_protocol() for each in transports)
    return one, other
