"""Bans of peers, hosts and subnets for a limited time. No I/O; times are monotonic seconds.

These are the records only: `guard.py` decides who is banned, `peers/banning.py` enforces it.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import InvalidParams, parse_peer_id

MAX_BANS: Final = 4096
MEMORY_S: Final = 86_400.0
"How long an expired ban makes the next one longer; also the longest automatic ban."
_SHORTEST_PREFIX: Final = {4: 8, 6: 16}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Ban:
    """A refusal of one peer id or one network."""

    subject: str
    "A peer id, an IP address or a network in CIDR notation."
    until: float
    reason: str
    times: int = 1
    "How many bans the subject got within a day, this one included."
    by_operator: bool = False

    def left_s(self, now: float) -> float:
        """Seconds until it expires, or 0."""
        return max(0.0, self.until - now)


def parse_subject(text: str) -> str:
    """A subject in canonical form from a peer id, an IP address or a network.

    Raises:
        InvalidParams: it is none of these, or a network too large to ban by mistake.
    """
    try:
        return parse_peer_id(text)
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text.partition("%")[0], strict=False)
    except ValueError:
        raise InvalidParams(
            f"{text!r} is not a peer id, an IP address or a network such as 203.0.113.0/24"
        ) from None
    shortest = _SHORTEST_PREFIX[network.version]
    if network.prefixlen < shortest:
        raise InvalidParams(f"{network} is too large to ban; the limit is a /{shortest}")
    return _canonical(network)


def _canonical(network: Network) -> str:
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)


class Bans:
    """Current bans, and the memory of expired ones."""

    def __init__(self, *, max_bans: int = MAX_BANS) -> None:
        self.count = 0
        "Bans since the start."
        self._max = max_bans
        self._bans: dict[str, Ban] = {}
        self._networks: dict[tuple[int, int], set[str]] = {}
        "(IP version, prefix length) -> banned networks of that size"
        self._past: OrderedDict[str, tuple[int, float]] = OrderedDict()
        "subject -> (bans within a day, end of the last one)"

    def __len__(self) -> int:
        return len(self._bans)

    def times(self, subject: str, now: float) -> int:
        """How many bans `subject` got within the last day."""
        if (ban := self.of(subject, now)) is not None:
            return ban.times
        times, ended = self._past.get(subject, (0, 0.0))
        return times if now - ended < MEMORY_S else 0

    def add(self, ban: Ban) -> None:
        """Refuse a subject; replaces its current ban."""
        self.count += 1
        self._drop(ban.subject)
        if len(self._bans) >= self._max:
            # Bans by the operator go last.
            victim = min(self._bans.values(), key=lambda b: (b.by_operator, b.until))
            self._drop(victim.subject)
        self._bans[ban.subject] = ban
        if (size := _size(ban.subject)) is not None:
            self._networks.setdefault(size, set()).add(ban.subject)

    def lift(self, subject: str) -> bool:
        """End the ban of `subject` and forget earlier ones; return whether it was banned."""
        self._past.pop(subject, None)
        return self._drop(subject) is not None

    def of(self, subject: str, now: float) -> Ban | None:
        """The ban of exactly this subject, or None."""
        ban = self._bans.get(subject)
        if ban is not None and ban.until <= now:
            self._expire(ban)
            return None
        return ban

    def of_address(self, address: str, now: float) -> Ban | None:
        """The ban of the host or a network around `address`, or None."""
        if not self._networks:
            return None
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        for version, length in list(self._networks):
            if version == ip.version:
                network = ipaddress.ip_network((ip, length), strict=False)
                if (ban := self.of(_canonical(network), now)) is not None:
                    return ban
        return None

    def current(self, now: float) -> list[Ban]:
        """Every ban, the longest remaining first."""
        for ban in list(self._bans.values()):
            if ban.until <= now:
                self._expire(ban)
        return sorted(self._bans.values(), key=lambda ban: -ban.until)

    def _expire(self, ban: Ban) -> None:
        self._drop(ban.subject)
        self._past[ban.subject] = (ban.times, ban.until)
        self._past.move_to_end(ban.subject)
        if len(self._past) > self._max:
            self._past.popitem(last=False)

    def _drop(self, subject: str) -> Ban | None:
        ban = self._bans.pop(subject, None)
        if ban is not None and (size := _size(subject)) is not None:
            self._networks[size].discard(subject)
            if not self._networks[size]:
                del self._networks[size]
        return ban


def _size(subject: str) -> tuple[int, int] | None:
    """IP version and prefix length of a network; None for a peer id."""
    try:
        network = ipaddress.ip_network(subject)
    except ValueError:
        return None
    return network.version, network.prefixlen
