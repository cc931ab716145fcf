"""Accepts TCP connections without a transport for each: most end after one request."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any, Final

MAX_BATCH: Final = 64
"Connections that are accepted before other work has its turn."
BACKLOG: Final = 1024
DEFER_S: Final = 1
"Clients that connect and send nothing are accepted this late; until then they cost no descriptor."
PAUSE_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Gives each new connection of the listening sockets, which does not block, to `begin`."""

    def __init__(self, begin: Callable[[socket.socket, Any], None]) -> None:
        self._begin = begin
        self._sockets: list[socket.socket] = []
        self._pauses: set[asyncio.TimerHandle] = set()

    def listen(self, sock: socket.socket) -> None:
        """Accept on a bound socket that does not block; the caller closes it after `close`."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_S)
        sock.listen(BACKLOG)
        self._sockets.append(sock)
        self._resume(sock)

    def close(self) -> None:
        """Accept no more."""
        for pause in self._pauses:
            pause.cancel()
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
        self._sockets.clear()

    def _resume(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(MAX_BATCH):
            try:
                connection, source = sock.accept()
            except OSError as e:
                if e.errno in _EXHAUSTED:
                    # The socket stays readable, and would keep the loop busy.
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(sock)
                    self._pauses = {pause for pause in self._pauses if pause.when() > loop.time()}
                    self._pauses.add(loop.call_later(PAUSE_S, self._resume, sock))
                return
            connection.setblocking(False)
            self._begin(connection, source)
