"""Paths that drop large packets without a word, as tunnels do whose ICMP messages are filtered.

The connection and the handshake, which are small, succeed; then the first full segment is sent
again and again and everything waits behind it. The kernel mends that only where
net.ipv4.tcp_mtu_probing is set, so a dialer that saw it asks for smaller segments next time (RFC
4821, section 7.7, and RFC 879 for the option).
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from typing import Final

SMALL_SEGMENT_BYTES: Final = 1160
"Fits 1,280 bytes, which every IPv6 path carries (RFC 8200), with all headers and options."
REMEMBER_S: Final = 3600.0
MAX_HOSTS: Final = 256
# linux/tcp.h, struct tcp_info: 8 bytes, then rto, ato, snd_mss, rcv_mss, unacked
_INFO: Final = struct.Struct("=BBBBBBBB5I")
_ENOUGH_RETRANSMITS: Final = 3


def is_stalled(tcp_info: bytes) -> bool:
    """Whether a silent connection looks like a path that drops large packets.

    Either full segments are sent again and again, or the other side's kernel has all of ours while
    nothing comes back: then its own full segments are the ones that are lost.
    """
    if len(tcp_info) < _INFO.size:
        return False
    _, _, retransmits, *_, snd_mss, _, unacked = _INFO.unpack_from(tcp_info)
    if snd_mss <= SMALL_SEGMENT_BYTES:
        return False
    return bool(unacked == 0 or retransmits >= _ENOUGH_RETRANSMITS)


def tcp_info(sock: socket.socket) -> bytes:
    """What the kernel knows about a connection; empty when it does not say."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return b""


class StalledPaths:
    """Hosts to which connections stalled lately. No clock: callers pass `now`."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def note(self, host: str, now: float) -> bool:
        """A connection to `host` stalled; whether that is news."""
        is_news = self._until.pop(host, 0.0) <= now
        self._until[host] = now + REMEMBER_S
        if len(self._until) > MAX_HOSTS:
            self._until.popitem(last=False)
        return is_news

    def current(self, now: float) -> list[str]:
        """Hosts that get small segments now."""
        return [host for host, until in self._until.items() if until > now]

    def prepare(self, sock: socket.socket, host: str, now: float) -> None:
        """Limit the segments of a socket that is about to be connected to `host`, both ways."""
        if self._until.get(host, 0.0) > now:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT_BYTES)
