"""The router of this machine: where its default routes of IPv4 and IPv6 lead."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_ROUTES: Final = Path("/proc/net/route")
_ROUTES6: Final = Path("/proc/net/ipv6_route")
# linux/route.h
_UP_TO_GATEWAY: Final = 0x1 | 0x2


@dataclass(frozen=True, slots=True)
class Gateway:
    """The router, and this machine as the router sees it."""

    host: str
    own: str
    "IP address from which this machine reaches the router."

    def has_page(self, url: str) -> bool:
        """Whether a URL leads to the router itself."""
        try:
            parts = urlsplit(url)
            return parts.scheme == "http" and parts.hostname == self.host and parts.port != 0
        except ValueError:
            return False


def parse_routes(text: str) -> str:
    """The gateway with the lowest metric in the text of /proc/net/route, or ""."""
    found: list[tuple[int, str]] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        if int(fields[3], 16) & _UP_TO_GATEWAY == _UP_TO_GATEWAY:
            host = socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))
            found.append((int(fields[6]), host))
    return min(found)[1] if found else ""


def default_gateway() -> Gateway | None:
    """The router, or None if there is no default route to one."""
    try:
        host = parse_routes(_ROUTES.read_text())
    except OSError:
        return None
    if not host:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((host, 9))  # chooses the source address; nothing is sent
        except OSError:
            return None
        return Gateway(host, sock.getsockname()[0])


def parse_routes6(text: str) -> str:
    """The gateway with the lowest metric in the text of /proc/net/ipv6_route, or "".

    A link-local address has its zone, the interface.
    """
    found: list[tuple[int, str]] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10 or fields[0].strip("0") or fields[1] != "00":
            continue
        if int(fields[8], 16) & _UP_TO_GATEWAY == _UP_TO_GATEWAY:
            host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[4]))
            zone = f"%{fields[9]}" if host.startswith("fe80:") else ""
            found.append((int(fields[5], 16), host + zone))
    return min(found)[1] if found else ""


def gateway6(own: str) -> Gateway | None:
    """The IPv6 router for a machine with the address `own`, or None if there is none."""
    try:
        host = parse_routes6(_ROUTES6.read_text())
    except OSError:
        return None
    return Gateway(host, own) if host else None
