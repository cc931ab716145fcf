"""The machine's own IP addresses, asked of the kernel (netdevice(7), /proc/net/if_inet6)."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_IF_INET6: Final = Path("/proc/net/if_inet6")


def _ip4() -> list[str]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append(socket.inet_ntoa(reply[20:24]))
    return found


def _ip6() -> list[str]:
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        return []
    addresses = (ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in lines)
    return [str(a) for a in addresses if not a.is_link_local]


def own_addresses(version: int) -> list[str]:
    """IPv4 or IPv6 addresses of this machine (`version` 4 or 6), loopback last."""
    found = _ip4() if version == 4 else _ip6()
    return sorted(set(found), key=lambda a: (ipaddress.ip_address(a).is_loopback, a))
