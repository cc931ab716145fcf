"""The tracker's UDP port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from aitorrent_tracker.answering.sources import packed
from aitorrent_tracker.answering.tracker import Tracker
from aitorrent_tracker.wire.udp import MAX_BYTES

ABOUT_BYTES: Final = socket.CMSG_SPACE(20)
"Of control messages: `struct in6_pktinfo`, the larger one."
_IP_PKTINFO: Final = 8
"From linux/in.h; Python has no name for it."
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
        answer = self._answer
        if _is_wildcard(sock):
            # Of several addresses of this machine, the kernel would choose one to reply from, and
            # a client ignores replies from another address than it wrote to.
            answer = self._answer_from_where_it_came
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        asyncio.get_running_loop().add_reader(sock, answer, sock)
        self._sockets.append(sock)

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()

    def _answer(self, sock: socket.socket) -> None:
        """Answer what has arrived; a transport would cost more than the answers do."""
        now = self._clock()
        for _ in range(MAX_BATCH):
            try:
                raw, source = sock.recvfrom(MAX_BYTES + 1)
            except OSError:  # nothing more, or an error that concerns one earlier reply
                return
            reply = self._reply(raw, source, now)
            if reply is not None:
                try:
                    sock.sendto(reply, source)
                except OSError:  # its buffer is full, or there is no way back: clients ask again
                    self._tracker.counts["udp_unsent"] += 1

    def _answer_from_where_it_came(self, sock: socket.socket) -> None:
        now = self._clock()
        for _ in range(MAX_BATCH):
            try:
                raw, about, _, source = sock.recvmsg(MAX_BYTES + 1, ABOUT_BYTES)
            except OSError:
                return
            reply = self._reply(raw, source, now)
            if reply is not None:
                try:
                    sock.sendmsg((reply,), _reply_from(about), 0, source)
                except OSError:
                    self._tracker.counts["udp_unsent"] += 1

    def _reply(self, raw: bytes, source: Any, now: float) -> bytes | None:
        if len(raw) > MAX_BYTES or not source[1]:
            self._tracker.counts["udp_ignored"] += 1
            return None
        return self._tracker.udp(raw, self._packed(source[0]), now)


def _is_wildcard(sock: socket.socket) -> bool:
    return str(sock.getsockname()[0]) in ("0.0.0.0", "::")


def _reply_from(about: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """The control messages that make a reply come from the address that was written to: ip(7)."""
    # IPv6: the address and the interface. IPv4: its local address alone, between two fields.
    return [
        (level, kind, told if level == socket.IPPROTO_IPV6 else bytes(4) + told[4:8] + bytes(4))
        for level, kind, told in about
    ]
