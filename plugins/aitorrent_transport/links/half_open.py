"""Unauthenticated connections: their limits per source, and which one to evict.

No I/O. A new connection is always admitted. If that puts its address, its network or the whole
table over the limit, the largest holder within that scope loses a connection: silent ones first,
then the oldest. A flooding host thus evicts its own connections, and its neighbours get in.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

MAX_HALF_OPEN: Final = 64
MAX_PER_NET: Final = 16
"Per IPv4 /24 or IPv6 /56."
MAX_PER_HOST: Final = 4
"Per IPv4 address or IPv6 /64. Loopback has no such limit: local proxies connect from it."

C = TypeVar("C")


@dataclass(slots=True)
class _Entry:
    host: str
    net: str
    has_spoken: bool = False


class HalfOpen(Generic[C]):
    """Half-open connections in order of arrival."""

    def __init__(self, limit: int = MAX_HALF_OPEN) -> None:
        self._limit = limit
        self._entries: dict[C, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, connection: object) -> bool:
        return connection in self._entries

    def __iter__(self) -> Iterator[C]:
        return iter(list(self._entries))

    def add(self, connection: C, address: str) -> C | None:
        """Admit `connection` from `address`; return the connection evicted for it, or None."""
        host, net = shares(address)
        self._entries[connection] = entry = _Entry(host, net)
        rivals = [(c, e) for c, e in self._entries.items() if c is not connection]
        same_host = [(c, e) for c, e in rivals if e.host == host]
        same_net = [(c, e) for c, e in rivals if e.net == net]
        if entry.host and len(same_host) >= MAX_PER_HOST:
            return self._evict(same_host)
        if entry.net and len(same_net) >= MAX_PER_NET:
            return self._evict(_largest(same_net, by_net=False))
        if len(rivals) >= self._limit:
            return self._evict(_largest(_largest(rivals, by_net=True), by_net=False))
        return None

    def _evict(self, among: list[tuple[C, _Entry]]) -> C:
        # min() returns the first of equals, which is the oldest.
        victim = min(among, key=lambda pair: pair[1].has_spoken)[0]
        del self._entries[victim]
        return victim

    def spoke(self, connection: C) -> None:
        """Note that `connection` began a handshake: silent ones are evicted before it."""
        if connection in self._entries:
            self._entries[connection].has_spoken = True

    def remove(self, connection: C) -> bool:
        """Forget `connection`; return whether it was present."""
        return self._entries.pop(connection, None) is not None


def _largest(among: list[tuple[C, _Entry]], *, by_net: bool) -> list[tuple[C, _Entry]]:
    """The entries of the network or host that has the most."""
    counts = Counter(e.net if by_net else e.host for _, e in among)
    largest = counts.most_common(1)[0][0]
    return [(c, e) for c, e in among if (e.net if by_net else e.host) == largest]


def shares(address: str) -> tuple[str, str]:
    """The host and network that limits apply to; "" for loopback and unnamed sockets."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "", ""
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return "", ""
    host, net = (32, 24) if ip.version == 4 else (64, 56)
    return (
        str(ipaddress.ip_network((ip, host), strict=False)),
        str(ipaddress.ip_network((ip, net), strict=False)),
    )
