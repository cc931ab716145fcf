"""The host and the subnet of an address, which share its limits."""

from __future__ import annotations

import ipaddress

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_of(address: str) -> IP | None:
    """The address without zone, IPv4 if it is mapped into IPv6; None for an unnamed socket."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def shares(address: str) -> tuple[str, str]:
    """Host (IPv4 /32, IPv6 /64) and subnet (/24, /56); "" for loopback and unnamed sockets."""
    ip = ip_of(address)
    if ip is None or ip.is_loopback:
        return "", ""
    host, net = (32, 24) if ip.version == 4 else (64, 56)
    return (
        str(ipaddress.ip_network((ip, host), strict=False)),
        str(ipaddress.ip_network((ip, net), strict=False)),
    )


def is_public(address: str) -> bool:
    """Whether strangers can have the address: proxies and neighbours share private ones."""
    ip = ip_of(address)
    return ip is not None and ip.is_global
