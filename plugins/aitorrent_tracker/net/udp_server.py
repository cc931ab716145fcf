"""The tracker's UDP port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from aitorrent_tracker.answering.sources import packed
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.wire.udp import MAX_BYTES


class UdpServer:
    """The sockets on which datagrams are answered."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float]) -> None:
        self._tracker = tracker
        self._clock = clock
        self._transports: list[asyncio.DatagramTransport] = []

    async def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._tracker, self._clock), sock=sock
        )
        self._transports.append(transport)

    def close(self) -> None:
        """Stop listening."""
        for transport in self._transports:
            transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, tracker: Tracker, clock: Callable[[], float]) -> None:
        self._tracker = tracker
        self._clock = clock
        self._transport: asyncio.DatagramTransport | None = None
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False

    def datagram_received(self, raw: bytes, source: tuple[Any, ...]) -> None:
        # Replies do not wait for a full buffer: clients repeat their requests.
        if self._transport is None or self._is_paused or len(raw) > MAX_BYTES or not source[1]:
            self._tracker.counts["udp_ignored"] += 1
            return
        reply = self._tracker.udp(raw, packed(source[0]), self._clock())
        if reply is not None:
            self._transport.sendto(reply, source)
