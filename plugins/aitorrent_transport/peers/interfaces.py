"""The machine's own IP addresses, as the kernel lists them, most useful first.

/proc/net/fib_trie lists every local IPv4 address of interfaces that are up, including secondary
ones; the fallback, netdevice(7), has one per interface. /proc/net/if_inet6 lists IPv6 addresses.
"""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct
from pathlib import Path
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_FIB_TRIE: Final = Path("/proc/net/fib_trie")
_IF_INET6: Final = Path("/proc/net/if_inet6")
_LOCAL4: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")
# linux/if_addr.h
_TEMPORARY: Final = 0x01
_DAD_FAILED: Final = 0x08
_DEPRECATED: Final = 0x20
_TENTATIVE: Final = 0x40

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_fib_trie(text: str) -> list[str]:
    """Local IPv4 addresses in the text of fib_trie."""
    return _LOCAL4.findall(text)


def parse_if_inet6(text: str) -> list[str]:
    """IPv6 addresses in the text of if_inet6 that others can use, short-lived ones last.

    Link-local addresses mean nothing without a zone, which differs on each machine.
    """
    lasting: list[str] = []
    passing: list[str] = []
    for line in text.splitlines():
        raw, _, _, _, flags, *_ = line.split()
        address = ipaddress.IPv6Address(bytes.fromhex(raw))
        if address.is_link_local or int(flags, 16) & (_TENTATIVE | _DAD_FAILED):
            continue
        is_passing = int(flags, 16) & (_TEMPORARY | _DEPRECATED)
        (passing if is_passing else lasting).append(str(address))
    return lasting + passing


def _ip4() -> list[str]:
    try:
        if found := parse_fib_trie(_FIB_TRIE.read_text()):
            return found
    except OSError:
        pass
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
        return parse_if_inet6(_IF_INET6.read_text())
    except OSError:
        return []


def usefulness(address: Ip) -> int:
    """Rank, 0 is best: global addresses, then site-local ones, then loopback.

    Carrier-grade NAT (RFC 6598) is where VPNs live; machines without DHCP use 169.254/16.
    """
    if address.is_loopback:
        return 4
    if address.is_link_local:
        return 3
    if address.is_global:
        return 0
    return 1 if address.is_private else 2


def own_addresses(version: int) -> list[str]:
    """IPv4 or IPv6 addresses of this machine (`version` 4 or 6), most useful first."""
    return by_usefulness(_ip4() if version == 4 else _ip6())


def by_usefulness(addresses: list[str]) -> list[str]:
    """Distinct addresses, most useful first, otherwise in the given order."""
    distinct = dict.fromkeys(addresses)
    return sorted(distinct, key=lambda each: usefulness(ipaddress.ip_address(each)))
