"""The router of this machine: where its IPv4 default route leads."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_ROUTES: Final = Path("/proc/net/route")
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
