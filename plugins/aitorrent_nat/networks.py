"""Whose addresses are whose: networks of one owner, and networks that only members can use."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from aitorrentd.api import InvalidParams
from aitorrentd.api.network.addresses import parse_address

Place = tuple[str, int]
"IP address and port."

_INSIDE: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598)
        "169.254.0.0/16",
        "127.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
        "::1/128",
    )
)


def is_place(host: str, port: int) -> bool:
    """Whether one machine can be at this IP address and port."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if not 0 < port < 65_536 or ip.is_multicast or ip.is_unspecified or "%" in host:
        return False
    return ip not in ipaddress.ip_network("0.0.0.0/8") and host != "255.255.255.255"


@lru_cache(4096)
def is_inside(host: str) -> bool:
    """Whether only machines of the same network, or this one, can reach the address.

    Host names count as reachable from everywhere.
    """
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(ip in network for network in _INSIDE)


@lru_cache(4096)
def subnet_of(host: str) -> str:
    """The /24 or /56, of which one party may own every address; a name stands for itself."""
    return _network(host, 24, 56)


@lru_cache(4096)
def region_of(host: str) -> str:
    """The /16 or /32: two addresses in different ones likely have different owners; or the name."""
    return _network(host, 16, 32)


def _network(host: str, bits4: int, bits6: int) -> str:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((ip, bits4 if ip.version == 4 else bits6), strict=False))


def place_of(observed: str) -> Place | None:
    """The IP address and port in what a peer says it sees, or None."""
    try:
        address = parse_address(observed)
    except InvalidParams:
        return None
    return (address.host, address.port) if address.family in ("ip4", "ip6") else None
