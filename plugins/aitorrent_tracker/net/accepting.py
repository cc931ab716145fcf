"""Accepts TCP connections as mere descriptors: most end after one request.

Python's own `accept` makes two more system calls, and an object that is not needed.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
from collections.abc import Callable
from typing import Final

MAX_BATCH: Final = 64
"Connections that are accepted before other work has its turn."
BACKLOG: Final = 1024
DEFER_S: Final = 1
"Clients that connect and send nothing are accepted this late; until then they cost no descriptor."
PAUSE_S: Final = 1.0
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NAME_BYTES: Final = 28
"`struct sockaddr_in6`; the one of IPv4 is shorter."
_ADDRESS: Final = {socket.AF_INET: slice(4, 8), socket.AF_INET6: slice(8, 24)}
_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_accept4 = ctypes.CDLL(None, use_errno=True).accept4
_accept4.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Acceptor:
    """Gives the new connections of the listening sockets to `begin`, which then owns them.

    Each is a descriptor that does not block, and the packed address of the client.
    """

    def __init__(self, begin: Callable[[list[tuple[int, bytes]]], None]) -> None:
        self._begin = begin
        self._sockets: list[socket.socket] = []
        self._pauses: set[asyncio.TimerHandle] = set()
        self._name = bytearray(_NAME_BYTES)
        self._name_bytes = ctypes.c_uint32(_NAME_BYTES)
        self._to_name = ctypes.addressof(ctypes.c_char.from_buffer(self._name))
        self._to_name_bytes = ctypes.addressof(self._name_bytes)

    def listen(self, sock: socket.socket) -> None:
        """Accept on a bound socket that does not block; the caller closes it after `close`."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, DEFER_S)
        # Connections inherit it: an answer does not wait until the one before was received.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
        listening, where = sock.fileno(), _ADDRESS[socket.AddressFamily(sock.family)]
        # Room for one address; from then on, what the kernel wrote: they have one family.
        self._name_bytes.value = _NAME_BYTES
        connections: list[tuple[int, bytes]] = []
        for _ in range(MAX_BATCH):
            accepted = _accept4(listening, self._to_name, self._to_name_bytes, _FLAGS)
            if accepted < 0:
                if ctypes.get_errno() in _EXHAUSTED:
                    # The socket stays readable, and would keep the loop busy.
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(sock)
                    self._pauses = {pause for pause in self._pauses if pause.when() > loop.time()}
                    self._pauses.add(loop.call_later(PAUSE_S, self._resume, sock))
                break
            connections.append((accepted, bytes(self._name[where])))
        if connections:
            self._begin(connections)
