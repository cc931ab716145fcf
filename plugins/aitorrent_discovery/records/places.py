"""Which addresses of a record this node dials. No I/O.

A record is signed by its own node, but that node may be hostile: it can list the addresses of
others to have them dialled, or addresses that mean another machine in each network. What counts is
where the record was heard.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from aitorrentd.api.network.addresses import Address, is_loopback

MAX_PLACES: Final = 8
"Of one peer, per attempt; the transport races them."
MAX_NAMES: Final = 2
"Host names among them: each costs a lookup."

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_of(host: str) -> Ip | None:
    """The IP address that `host` is, or None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(4096)
def subnet(host: str) -> str:
    """The network that likely belongs to one owner: /16 of IPv4, /32 of IPv6, or the name."""
    ip = ip_of(host)
    if ip is None:
        return host
    return str(ipaddress.ip_network((ip, 16 if ip.version == 4 else 32), strict=False))


@lru_cache(4096)
def is_global(host: str) -> bool:
    """Whether the address means the same machine everywhere; names count as such."""
    ip = ip_of(host)
    return ip is None or ip.is_global


def dialable(
    addresses: Iterable[Address], teller: str, own: Iterable[Address] = ()
) -> tuple[Address, ...]:
    """Those of `addresses` that make sense for a node that heard of them from `teller`.

    `teller` is the host of the channel on which the record arrived. Private addresses count only if
    the teller is in a private network itself, loopback ones only if it is on this machine. Nothing
    dials this node's `own` addresses.
    """
    near, here = not is_global(teller), is_loopback(teller)
    mine = {(address.host, address.port) for address in own if address.relay is None}
    names = 0
    found: dict[str, Address] = {}
    for address in addresses:
        if (address.host, address.port) in mine:
            continue
        ip = ip_of(address.host)
        if ip is None:
            names += 1
            if names > MAX_NAMES:
                continue
        if is_loopback(address.host):
            if not here:
                continue
        elif ip is not None and (ip.is_reserved or not (ip.is_global or near)):
            continue
        elif ip is not None and ip.version == 6 and ip.is_link_local:
            continue  # valid only with a zone, which each machine names for itself
        found.setdefault(address.location, address)
    return by_distance(found.values())[:MAX_PLACES]


def by_distance(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Addresses in the order in which to try them: IPv6, IPv4, names; those of relays last."""
    order = {"ip6": 0, "ip4": 1}
    return tuple(sorted(addresses, key=lambda a: (a.relay is not None, order.get(a.family, 2))))


def on_link(addresses: Iterable[Address], networks: Sequence[str]) -> tuple[Address, ...]:
    """Those of `addresses` that are in one of `networks`, such as 192.168.1.0/24."""
    attached = [ipaddress.ip_network(network) for network in networks]
    found = []
    for address in addresses:
        ip = ip_of(address.host) if address.relay is None else None
        if ip is not None and any(ip.version == n.version and ip in n for n in attached):
            found.append(address)
    return by_distance(found)[:MAX_PLACES]
