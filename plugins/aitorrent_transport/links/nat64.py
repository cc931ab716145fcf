"""IPv4 addresses on a network that has only IPv6, through its NAT64.

A name server with DNS64 gives IPv6 addresses to names, but nobody does for an IPv4 address in a
bootstrap list or of a peer. Such a network tells its prefix by the addresses of `ipv4only.arpa`
(RFC 7050); with it the host makes the IPv6 address itself (RFC 8305, section 7.1).
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Final

from aitorrentd.api import TimedOut, Unavailable
from aitorrentd.api.network.resolver import Found, Resolver

NAME: Final = "ipv4only.arpa"
_KNOWN: Final = {int(ipaddress.IPv4Address(text)) for text in ("192.0.0.170", "192.0.0.171")}
_LOW: Final = 0xFFFF_FFFF


def prefixes(found: Found) -> list[int]:
    """The /96 prefixes in the addresses of `ipv4only.arpa`; other lengths are not supported."""
    numbers = [int(ipaddress.IPv6Address(ip)) for family, ip in found if family == socket.AF_INET6]
    return list(dict.fromkeys(each & ~_LOW for each in numbers if each & _LOW in _KNOWN))


async def synthesised(found: Found, error: OSError, resolver: Resolver) -> Found:
    """IPv6 addresses for those that `error` says there is no route to; none without a NAT64.

    Private IPv4 addresses are left out: the translator is not in their network (RFC 6052).
    """
    wanted = [ipaddress.ip_address(ip) for family, ip in found if family == socket.AF_INET]
    usable = [ip for ip in wanted if ip.is_global]
    if error.errno != errno.ENETUNREACH or len(wanted) < len(found) or not usable:
        return []
    try:
        answer = await resolver.resolve(NAME, version=6)
    except (OSError, TimedOut, Unavailable):
        return []
    return [
        (int(socket.AF_INET6), str(ipaddress.IPv6Address(prefix | int(ip))))
        for prefix in prefixes(answer)
        for ip in usable
    ]
