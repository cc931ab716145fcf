"""Unauthenticated connections: their limits per source, and which one to evict.

No I/O. A new connection is always admitted. If that puts its address, its network or the whole
table over the limit, the largest holder within that scope loses a connection: silent ones first,
then the oldest. A flooding host thus evicts its own connections, and its neighbours get in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from aitorrent_transport.protection.limits import Limits
from aitorrent_transport.protection.subnets import shares

C = TypeVar("C")


@dataclass(slots=True)
class _Entry:
    host: str
    net: str
    has_spoken: bool = False


class HalfOpen(Generic[C]):
    """Half-open connections in order of arrival.

    Loopback has no limit per host or subnet: local proxies connect from it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
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
        if entry.host and len(same_host) >= self._limits.half_open_per_host:
            return self._evict(same_host)
        if entry.net and len(same_net) >= self._limits.half_open_per_subnet:
            return self._evict(_largest(same_net, by_net=False))
        if len(rivals) >= self._limits.half_open:
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
