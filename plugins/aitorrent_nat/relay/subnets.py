"""The networks of an address whose nodes likely have one owner. No I/O."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(4096)
def subnet_of(host: str) -> str:
    """The /24 of an IPv4 address, the /56 of an IPv6 address; "" if it has no limit."""
    return _network(host, 24, 56)


@lru_cache(4096)
def region_of(host: str) -> str:
    """The /16 of an IPv4 address, the /32 of an IPv6 address; "" if it has no limit."""
    return _network(host, 16, 32)


@lru_cache(4096)
def is_global(host: str) -> bool:
    """Whether the address means the same machine everywhere; names count as such."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True


def _network(host: str, bits4: int, bits6: int) -> str:
    """Loopback addresses and names have none: a stranger cannot connect from there."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return ""
    return str(ipaddress.ip_network((ip, bits4 if ip.version == 4 else bits6), strict=False))
