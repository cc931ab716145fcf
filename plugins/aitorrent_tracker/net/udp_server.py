"""The tracker's UDP port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.net.datagrams import Datagrams
from aitorrent_tracker.wire.udp import MAX_BYTES


class UdpServer:
    """The sockets on which datagrams are answered."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float]) -> None:
        self._tracker = tracker
        self._clock = clock
        self._sockets: list[socket.socket] = []

    def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket that does not block; the caller closes it after `close`."""
        asyncio.get_running_loop().add_reader(sock, self._answer, Datagrams(sock, MAX_BYTES))
        self._sockets.append(sock)

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()

    def _answer(self, datagrams: Datagrams) -> None:
        """Answer what has arrived; a transport would cost more than the answers do."""
        ignored, unsent = datagrams.answer(self._tracker.udp, self._clock())
        if ignored:
            self._tracker.counts["udp_ignored"] += ignored
        if unsent:
            self._tracker.counts["udp_unsent"] += unsent
