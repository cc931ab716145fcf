"""The machine's own IP addresses, as the kernel lists them, most useful first.

/proc/net/fib_trie lists every local IPv4 address of interfaces that are up, including secondary
ones; the fallback, netdevice(7), has one per interface. /proc/net/if_inet6 lists IPv6 addresses.
A bridge that joins no network card, as for containers, leads nowhere but to this machine: every
machine may have one with the same address.
"""

from __future__ import annotations

import fcntl
import ipaddress
import re
import socket
import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_FIB_TRIE: Final = Path("/proc/net/fib_trie")
_IF_INET6: Final = Path("/proc/net/if_inet6")
_SYS_NET: Final = Path("/sys/class/net")
_LOCAL4: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")
# linux/if_addr.h
_TEMPORARY: Final = 0x01
_DAD_FAILED: Final = 0x08
_DEPRECATED: Final = 0x20
_TENTATIVE: Final = 0x40
_INNER: Final = 4

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
    return _primary(name for _, name in socket.if_nameindex())


def _primary(names: Iterable[str]) -> list[str]:
    """The first IPv4 address of each interface that has one."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name in names:
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
        return 5
    if address.is_link_local:
        return 3
    if address.is_global:
        return 0
    return 1 if address.is_private else 2


def inner_bridges(root: Path = _SYS_NET) -> list[str]:
    """Bridges without a network card behind any of their ports; `root` is /sys/class/net."""

    def has_card(name: str) -> bool:
        lower = (each.name.partition("_")[2] for each in (root / name).glob("lower_*"))
        return (root / name / "device").exists() or any(map(has_card, lower))

    try:
        names = [each.name for each in root.iterdir() if (each / "bridge").exists()]
        return [name for name in names if not has_card(name)]
    except (OSError, RecursionError):
        return []


def inner_addresses() -> set[str]:
    """Addresses of this machine that only its own containers and virtual machines can reach."""
    bridges = inner_bridges()
    if not bridges:
        return set()
    try:
        lines = _IF_INET6.read_text().splitlines()
    except OSError:
        lines = []
    inside = [line for line in lines if line.split()[-1] in bridges]
    return {*_primary(bridges), *parse_if_inet6("\n".join(inside))}


def own_addresses(version: int) -> list[str]:
    """IPv4 or IPv6 addresses of this machine (`version` 4 or 6), most useful first."""
    return by_usefulness(_ip4() if version == 4 else _ip6())


def by_usefulness(addresses: list[str], inner: Collection[str] = ()) -> list[str]:
    """Distinct addresses, most useful first, otherwise in the given order.

    Those in `inner` come just before loopback.
    """

    def rank(address: str) -> int:
        worth = usefulness(ipaddress.ip_address(address))
        return max(worth, _INNER) if address in inner else worth

    return sorted(dict.fromkeys(addresses), key=rank)
