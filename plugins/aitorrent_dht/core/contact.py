"""Contacts: where a node of the DHT can be asked, and how far its id is from another.

Ids are the first 160 bits of the SHA-256 of a public key, compared by XOR (Maymounkov and Mazières,
"Kademlia", 2002). An id is for routing only: whether two nodes are the same is decided by the whole
public key.
"""

from __future__ import annotations

import hashlib
import ipaddress
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

ID_BITS: Final = 160
ID_BYTES: Final = ID_BITS // 8
ID_SPACE: Final = 1 << 160
KEY_BYTES: Final = 32
_CACHED: Final = 65_536
_NOWHERE4: Final = ipaddress.IPv4Network("0.0.0.0/8")


class Contact(NamedTuple):
    """A node at an address; `host` is a canonical IP address."""

    id: int
    key: bytes
    "Its Ed25519 public key."
    host: str
    port: int


class Scope(IntEnum):
    """How far the address of a contact is valid."""

    NOWHERE = 0
    "Nobody can be there: multicast, unspecified, reserved, or valid only with a zone."
    MACHINE = 1
    SITE = 2
    "Private networks, carrier-grade NAT, documentation networks."
    GLOBAL = 3


@lru_cache(_CACHED)
def node_id(key: bytes) -> int:
    """The DHT id of the node with this public key."""
    return id_of(hashlib.sha256(key).digest())


def id_of(digest: bytes) -> int:
    """The point in the id space that a digest of at least 20 bytes stands for."""
    return int.from_bytes(digest[:ID_BYTES], "big")


def contact_of(key: bytes, host: str, port: int) -> Contact:
    """The contact of a node with this public key."""
    return Contact(node_id(key), key, host, port)


@lru_cache(_CACHED)
def scope_of(host: str) -> Scope:
    """How far an IP address is valid; NOWHERE also for text that is not one."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return Scope.NOWHERE
    if ip.is_loopback:
        return Scope.MACHINE
    if ip.is_multicast or ip.is_unspecified or host == "255.255.255.255":
        return Scope.NOWHERE
    if isinstance(ip, ipaddress.IPv4Address):
        if ip in _NOWHERE4 or ip.is_reserved:
            return Scope.NOWHERE
    elif ip.is_link_local or ip.ipv4_mapped is not None:
        return Scope.NOWHERE
    return Scope.GLOBAL if ip.is_global else Scope.SITE


def least_scope(teller: str) -> Scope:
    """The scope that addresses of other nodes must have to be named by, or to, one at `teller`.

    Addresses are valid where both are: else a stranger could direct this node's packets at machines
    of its own network.
    """
    return max(Scope.MACHINE, scope_of(teller))


def can_name(least: Scope, contact: Contact) -> bool:
    """Whether a node may tell of `contact`; `least` is its `least_scope`."""
    return scope_of(contact.host) >= least and 0 < contact.port < 65_536


@lru_cache(_CACHED)
def subnet_of(host: str) -> str:
    """The /24 or /56 of a global address, of which one party may own every address.

    Empty for loopback and private networks, which are not counted: a stranger cannot have an
    address there, and the machines of one home or test share one.
    """
    if scope_of(host) is not Scope.GLOBAL:
        return ""
    if ":" not in host:
        return host.rpartition(".")[0]
    return str(ipaddress.ip_network(f"{host}/56", strict=False).network_address)


def is_ip6(host: str) -> bool:
    """Whether `host` is an IPv6 address."""
    return ":" in host
