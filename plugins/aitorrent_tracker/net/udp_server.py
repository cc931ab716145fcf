"""The tracker's UDP port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from aitorrent_tracker.answering.sources import packed
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.wire.udp import MAX_BYTES

MAX_BATCH: Final = 64
"Datagrams that are answered before other work has its turn."


class UdpServer:
    """The sockets on which datagrams are answered."""

    def __init__(self, tracker: Tracker, clock: Callable[[], float]) -> None:
        self._tracker = tracker
        self._clock = clock
        self._packed = lru_cache(maxsize=4096)(packed)
        self._sockets: list[socket.socket] = []

    def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket that does not block; the caller closes it after `close`."""
        asyncio.get_running_loop().add_reader(sock, self._answer, sock)
        self._sockets.append(sock)

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()

    def _answer(self, sock: socket.socket) -> None:
        """Answer what has arrived; a transport would cost more than the answers do."""
        tracker, now = self._tracker, self._clock()
        for _ in range(MAX_BATCH):
            try:
                raw, source = sock.recvfrom(MAX_BYTES + 1)
            except OSError:  # nothing more, or an error that concerns one earlier reply
                return
            if len(raw) > MAX_BYTES or not source[1]:
                tracker.counts["udp_ignored"] += 1
                continue
            reply = tracker.udp(raw, self._packed(source[0]), now)
            if reply is None:
                continue
            try:
                sock.sendto(reply, source)
            except OSError:  # its buffer is full, or there is no way back: clients ask again
                tracker.counts["udp_unsent"] += 1
