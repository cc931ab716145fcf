"""Where requests come from: packed addresses, networks, and the client behind a proxy."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from aitorrent_tracker.swarms.memory import SUBNET_BYTES, is_loopback
from aitorrent_tracker.wire.refusals import Refused
from aitorrentd.api.limits import PerPeer, TokenBucket

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_SUBNETS: Final = 65_536
"Networks that rate limits remember."
BURST_S: Final = 10.0
"A network may send at once what it may send in this time."
_MAPPED: Final = bytes(10) + b"\xff\xff"


def packed(host: str) -> bytes:
    """The address in 4 or 16 bytes; IPv4 in IPv6 is IPv4.

    Raises:
        ValueError: it is no IP address.
    """
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        raw = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, UnicodeError) as e:
        raise ValueError(f"{host!r} is not an IP address") from e
    return raw[12:] if raw.startswith(_MAPPED) else raw


def subnet_of(host: bytes) -> str:
    """The /24 or /56 that shares one limit; "" for loopback, which has none."""
    return "" if is_loopback(host) else host[: SUBNET_BYTES[len(host)]].hex()


class Rates:
    """How often each network may be answered."""

    def __init__(self, per_s: float) -> None:
        self._buckets: PerPeer[TokenBucket] = PerPeer(
            lambda: TokenBucket(per_s, max(1.0, per_s * BURST_S), 0.0), max_entries=MAX_SUBNETS
        )

        self._subnet_of = lru_cache(maxsize=4096)(subnet_of)

    def take(self, host: bytes, now: float) -> bool:
        """Whether a request of this address may be answered now."""
        subnet = self._subnet_of(host)
        return not subnet or self._buckets.of(subnet).take(now)


class Proxies:
    """Reverse proxies that are believed when they say whose request they pass on."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    @property
    def is_empty(self) -> bool:
        """Whether no proxy is trusted."""
        return not self._networks

    def client(self, host: bytes, forwarded: Sequence[bytes]) -> bytes:
        """The packed address of the client: the last hop that is no trusted proxy.

        Raises:
            Refused: a trusted proxy did not say whose request it passes on.
        """
        if not self.is_trusted(host):
            return host
        for hop in reversed(b",".join(forwarded).split(b",")):
            try:
                client = packed(_without_port(hop.strip().decode("ascii")))
            except ValueError:
                break
            if not self.is_trusted(client):
                return client
        raise Refused("proxy", "the proxy in front of this tracker sent no usable X-Forwarded-For")

    def is_trusted(self, host: bytes) -> bool:
        """Whether this is the address of a trusted proxy."""
        if not self._networks:
            return False
        address = ipaddress.ip_address(host)
        return any(address in network for network in self._networks)


def _without_port(hop: str) -> str:
    """The address in `203.0.113.1:4711`, `[2001:db8::1]:4711` or plain."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
