"""Path MTU black holes: paths that silently drop large packets, as with filtered ICMP in tunnels.

TCP setup and the handshake use small packets and succeed; then the first full segment is
retransmitted forever and everything queues behind it. The kernel recovers only if
net.ipv4.tcp_mtu_probing is set, so a dialer that detects this requests smaller segments next time
(RFC 4821, section 7.7; RFC 879 for the option).

The option is without effect on a connection that exists, and a listening socket would pass it on to
everybody. A listener that detects the fault therefore asks in the next handshake of that network,
and the dialer dials again with smaller segments, which holds for both directions.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections import OrderedDict
from typing import Final

from aitorrent_transport.protection.subnets import shares

SMALL_SEGMENT_BYTES: Final = 1160
"Fits, with all headers and options, the 1,280 bytes that every IPv6 path carries (RFC 8200)."
REMEMBER_S: Final = 3600.0
MAX_HOSTS: Final = 256
# linux/tcp.h, struct tcp_info: 8 bytes, then rto, ato, snd_mss, rcv_mss, unacked
_INFO: Final = struct.Struct("=BBBBBBBB5I")
_QUEUED: Final = struct.Struct("=i")
_ENOUGH_RETRANSMITS: Final = 3
_TOO_MANY_RETRANSMITS: Final = 5


def is_stalled(tcp_info: bytes, unacked_bytes: int) -> bool:
    """Whether a silent connection suggests a path that drops large packets.

    Either our full segments are being retransmitted, or the other side's kernel has acknowledged
    all of ours but sends nothing, and never sent a large segment: then its own are being lost. A
    peer that was switched off leaves only small segments, our pings, unacknowledged; without a link
    they are not even sent. `unacked_bytes` counts what is queued or in flight.
    """
    if len(tcp_info) < _INFO.size:
        return False
    _, _, retransmits, *_, snd_mss, rcv_mss, unacked = _INFO.unpack_from(tcp_info)
    if snd_mss <= SMALL_SEGMENT_BYTES:
        return False
    if unacked == 0:
        return bool(unacked_bytes == 0 and rcv_mss <= SMALL_SEGMENT_BYTES)
    return bool(retransmits >= _ENOUGH_RETRANSMITS and unacked_bytes > SMALL_SEGMENT_BYTES)


def is_unheard(tcp_info: bytes) -> bool:
    """Whether the other side's kernel has acknowledged nothing for at least 6 s.

    Five retransmissions of the same bytes, each after twice the time of the last, beginning with at
    least 0.2 s (tcp(7), RFC 6298).
    """
    if len(tcp_info) < _INFO.size:
        return False
    _, _, retransmits, *_, unacked = _INFO.unpack_from(tcp_info)
    return bool(unacked and retransmits >= _TOO_MANY_RETRANSMITS)


def tcp_info(sock: socket.socket) -> bytes:
    """The kernel's tcp_info for a connection; empty if unavailable."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return b""


def unacked_bytes(sock: socket.socket) -> int:
    """Bytes in the send queue of a connection that the other side has not acknowledged; tcp(7)."""
    try:
        reply = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size))
    except OSError:
        return 0
    return int(_QUEUED.unpack(reply)[0])


def has_large_segments(sock: socket.socket) -> bool:
    """Whether a connection may send segments that such a path drops."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > SMALL_SEGMENT_BYTES
    except OSError:
        return False


class StalledPaths:
    """Hosts with which connections stalled recently. No clock: callers pass `now`."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def note(self, host: str, now: float) -> bool:
        """Record that a connection to `host` stalled; return whether that is new."""
        is_news = self._until.pop(host, 0.0) <= now
        self._until[host] = now + REMEMBER_S
        if len(self._until) > MAX_HOSTS:
            self._until.popitem(last=False)
        return is_news

    def current(self, now: float) -> list[str]:
        """Hosts that currently get small segments."""
        return [host for host, until in self._until.items() if until > now]

    def wanted(self, host: str, now: float) -> int:
        """Largest segments in bytes to ask a dialer at `host` for; 0 for no limit.

        A tunnel usually serves a whole network, in which addresses are assigned anew.
        """
        net = shares(host)[1] or host
        nets = {shares(each)[1] or each for each in self.current(now)}
        return SMALL_SEGMENT_BYTES if net in nets else 0

    def prepare(self, sock: socket.socket, host: str, now: float) -> None:
        """Limit segment size in both directions on a socket about to connect to `host`."""
        if self._until.get(host, 0.0) > now:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT_BYTES)
