"""The machine's interfaces to local networks, as mDNS needs them.

Loopback reaches no other machine, and the other end of a point-to-point interface (a VPN, a modem)
is no local network: neither is used.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

_SIOCGIFFLAGS: Final = 0x8913
# linux/if.h
_UP: Final = 0x1
_LOOPBACK: Final = 0x8
_POINT_TO_POINT: Final = 0x10
_MULTICAST: Final = 0x1000


@dataclass(frozen=True, slots=True)
class LocalInterfaces:
    """What is up now; equal when nothing changed."""

    ip4: tuple[str, ...]
    "IPv4 addresses on which to speak mDNS."
    indexes6: tuple[int, ...]
    "Interfaces on which to speak mDNS over IPv6."
    networks: tuple[str, ...]
    "The attached networks, such as 192.168.1.0/24, without link-local IPv6."

    def __bool__(self) -> bool:
        return bool(self.ip4 or self.indexes6)


def is_local(flags: int) -> bool:
    """Whether an interface with these flags leads to a local network with multicast."""
    return flags & (_UP | _MULTICAST) == _UP | _MULTICAST and not flags & (
        _LOOPBACK | _POINT_TO_POINT
    )


def local_interfaces() -> LocalInterfaces:
    """The interfaces that are up now."""
    import ifaddr

    ip4: list[str] = []
    indexes6: list[int] = []
    networks: set[str] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for adapter in ifaddr.get_adapters():
            if not is_local(_flags(sock, adapter.name)):
                continue
            for ip in adapter.ips:
                host = ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0]
                if isinstance(ip.ip, str):
                    ip4.append(host)
                elif adapter.index is not None:
                    indexes6.append(adapter.index)
                network = ipaddress.ip_network((host, ip.network_prefix), strict=False)
                if not (network.version == 6 and network.is_link_local):
                    networks.add(str(network))
    return LocalInterfaces(
        tuple(sorted(set(ip4))), tuple(sorted(set(indexes6))), tuple(sorted(networks))
    )


def _flags(sock: socket.socket, name: str) -> int:
    try:
        reply = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return 0  # it has just gone
    flags: int = struct.unpack_from("H", reply, 16)[0]
    return flags
