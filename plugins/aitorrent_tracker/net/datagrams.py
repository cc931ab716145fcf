"""Answers many datagrams with two system calls: recvmmsg(2) and sendmmsg(2).

Python does not offer them, and its own calls take longer for a datagram than an answer does.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from typing import Final

SLOTS: Final = 64
"Datagrams that are answered before other work has its turn."
REPLY_BYTES: Final = 1232
"The least that any IPv6 path carries."
_IP_PKTINFO: Final = 8
"From linux/in.h; Python has no name for it."
_CONTROL_BYTES: Final = {
    socket.AF_INET: socket.CMSG_SPACE(12),
    socket.AF_INET6: socket.CMSG_SPACE(20),
}
"Of `struct in_pktinfo` and `struct in6_pktinfo`."
_NAMES: Final = {
    socket.AF_INET: struct.Struct(">2xH4s8x"),
    socket.AF_INET6: struct.Struct(">2xH4x16s4x"),
}
"Port and address in `struct sockaddr_in` and `struct sockaddr_in6`."


class _Vector(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """`struct msghdr`."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """`struct mmsghdr`."""

    _fields_ = (("header", _Header), ("size", ctypes.c_uint))


_MESSAGE_BYTES: Final = ctypes.sizeof(_Message)
_SIZE_AT: Final = _Message.size.offset // 4
_SIZE_STEP: Final = _MESSAGE_BYTES // 4
_libc: Final = ctypes.CDLL(None)
_receive = _libc.recvmmsg
_receive.argtypes = (
    *(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int),
    ctypes.c_void_p,
)
_send = _libc.sendmmsg
_send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Datagrams:
    """Buffers for a bound UDP socket that does not block. `max_bytes` is of a request."""

    def __init__(self, sock: socket.socket, max_bytes: int) -> None:
        self._sock = sock
        self._max = max_bytes
        self._unpack = _NAMES[socket.AddressFamily(sock.family)].iter_unpack
        self._name_bytes = _NAMES[socket.AddressFamily(sock.family)].size
        control_bytes = _tell_addresses(sock)
        # Of several addresses of this machine, the kernel would choose one to reply from, and a
        # client ignores replies from another address than it wrote to. So a reply gets the same
        # control message as its request, ip(7), without the interface in the one for IPv4: the
        # way back may be another one.
        self._has_interfaces = control_bytes > 0 and sock.family == socket.AF_INET
        names, controls = bytearray(SLOTS * self._name_bytes), bytearray(SLOTS * control_bytes)
        requests, replies = bytearray(SLOTS * (max_bytes + 1)), bytearray(SLOTS * REPLY_BYTES)
        inward, outward = bytearray(SLOTS * _MESSAGE_BYTES), bytearray(SLOTS * _MESSAGE_BYTES)
        size_t = ctypes.sizeof(ctypes.c_size_t)
        in_vectors, out_vectors = bytearray(SLOTS * 2 * size_t), bytearray(SLOTS * 2 * size_t)
        for buffer, size, vectors, messages in (
            (requests, max_bytes + 1, in_vectors, inward),
            (replies, REPLY_BYTES, out_vectors, outward),
        ):
            for at in range(SLOTS):
                vector = _Vector.from_buffer(vectors, at * 2 * size_t)
                vector.base, vector.size = _address(buffer) + at * size, size
                message = _Header.from_buffer(messages, at * _MESSAGE_BYTES)
                message.name = _address(names) + at * self._name_bytes
                message.name_size = self._name_bytes
                message.vectors, message.vector_count = ctypes.addressof(vector), 1
                if control_bytes:
                    message.control = _address(controls) + at * control_bytes
                    message.control_size = control_bytes
        self._names = names
        self._requests = memoryview(requests)
        self._replies = replies
        self._interfaces = memoryview(controls).cast("I")[4 :: max(1, control_bytes // 4)]
        self._no_interfaces = memoryview(bytes(4 * SLOTS)).cast("I")
        self._in, self._out, self._fresh = inward, outward, bytes(inward)
        self._in_address, self._out_address = _address(inward), _address(outward)
        self._in_sizes = memoryview(inward).cast("I")
        self._out_sizes = memoryview(out_vectors).cast("L")
        self._vectors = in_vectors

    def answer(
        self, reply_to: Callable[[bytes, bytes, float], bytes | None], now: float
    ) -> tuple[int, int]:
        """Answer what has arrived by `reply_to(datagram, packed address, now)`, or not if None.

        Returns how many were ignored, as too long or from port 0, and how many replies could not
        be sent.
        """
        ctypes.memmove(self._in_address, self._fresh, len(self._fresh))
        count = _receive(self._sock.fileno(), self._in_address, SLOTS, 0, None)
        ignored = unsent = first = 0
        most, step, replies = self._max, self._max + 1, self._replies
        # Copied once: slices of bytes take less time than those of a buffer.
        requests = bytes(self._requests[: max(count, 0) * step])
        in_sizes, out_sizes = self._in_sizes, self._out_sizes
        senders = self._unpack(self._names)
        if self._has_interfaces:
            self._interfaces[:] = self._no_interfaces
        for at in range(count):
            (port, host), size = next(senders), in_sizes[at * _SIZE_STEP + _SIZE_AT]
            reply = None
            if port and size <= most:
                begin = at * step
                reply = reply_to(requests[begin : begin + size], host, now)
            else:
                ignored += 1
            if reply is None:
                unsent += self._send(first, at)
                first = at + 1
                continue
            out_sizes[2 * at + 1] = size = len(reply)
            begin = at * REPLY_BYTES
            replies[begin : begin + size] = reply
        return ignored, unsent + self._send(first, max(count, 0))

    def _send(self, first: int, end: int) -> int:
        """Send the replies in these slots; returns how many could not be sent."""
        unsent = 0
        while first < end:
            address = self._out_address + first * _MESSAGE_BYTES
            sent = _send(self._sock.fileno(), address, end - first, 0)
            if sent <= 0:  # its buffer is full, or there is no way back: clients ask again
                unsent += 1
            first += max(sent, 1)
        return unsent


def _tell_addresses(sock: socket.socket) -> int:
    """Make requests tell to which address they were sent, if several are possible.

    Returns the size of what tells it.
    """
    if str(sock.getsockname()[0]) not in ("0.0.0.0", "::"):
        return 0
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    return _CONTROL_BYTES[socket.AddressFamily(sock.family)]


def _address(buffer: bytearray) -> int:
    """Where it is in memory, as long as its size does not change."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
