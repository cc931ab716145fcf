"""Swarms in memory: bounded, and expired by a time wheel of swarms."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Final

from aitorrent_tracker.swarms.peers import ABSENT, Peers
from aitorrent_tracker.swarms.storage import (
    Announce,
    Counts,
    Event,
    Found,
    Full,
    Statistics,
    make_tuple,
)
from aitorrent_tracker.swarms.wheel import Wheel

# In constants: an Enum looks its members up each time, which costs a hundred nanoseconds.
_STOPPED: Final = Event.STOPPED
_COMPLETED: Final = Event.COMPLETED
_PORT: Final = Struct(">H").pack
TICK_S: Final = 10.0
"Peers expire this much later than they must, at most."
SUBNET_BYTES: Final = {4: 3, 16: 7}
"A /24 or a /56, of which one party may own every address; by the size of the address."
_LOOPBACK6: Final = bytes(15) + b"\x01"
_TOLD: Final = {4: (4, 16), 16: (16, 4), -4: (-4, -16, 4, 16), -16: (-16, -4, 16, 4)}
"""Kinds of peers that an announcer of each kind is told, its own first; loopback addresses only on
loopback."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on memory, and on the part of a swarm that one network can take."""

    swarms: int = 100_000
    peers: int = 1_000_000
    peers_per_swarm: int = 5_000
    peers_per_subnet: int = 64
    "In one swarm; networks that are not global have no limit of their own."


def is_loopback(host: bytes) -> bool:
    """Whether the packed address is this machine's alone."""
    return host[0] == 127 if len(host) == 4 else host == _LOOPBACK6


def _kind_of(host: bytes) -> int:
    """The size of an address, negative for loopback: whose peers go together."""
    size = len(host)
    return -size if (host[0] == 127 if size == 4 else host == _LOOPBACK6) else size


class _Swarm:
    """Seeds and leechers by the kind of address."""

    __slots__ = ("kinds", "leechers", "seeds")

    def __init__(self) -> None:
        self.kinds: dict[int, tuple[Peers, Peers]] = {}
        "Seeds, leechers."
        self.seeds = self.leechers = 0

    def of(self, kind: int) -> tuple[Peers, Peers]:
        found = self.kinds.get(kind)
        if found is None:
            width = abs(kind) + 2
            found = self.kinds[kind] = (Peers(width), Peers(width))
        return found


def _half(seeds: Peers, leechers: Peers, wanted: int, draw: Callable[[], float], own: int) -> bytes:
    """Entries for a leecher, half of them seeds if there are enough; not the leecher at `own`."""
    share, others = wanted - wanted // 2, leechers.count
    if own >= 0:
        others -= 1
    if share < wanted - others:
        share = wanted - others
    if share > seeds.count:
        share = seeds.count
    found = seeds.sample(share, draw()) if share else b""
    if others <= 0:
        return found
    if own < 0:
        return found + leechers.sample(wanted - share, draw())
    return found + leechers.sample_others(wanted - share, draw(), own)


class MemoryStorage:
    """The swarms of one process. Peers are told apart by address and port.

    `draw` returns a random number in [0, 1).
    """

    def __init__(
        self, limits: Limits, *, ttl_s: float, now: float, draw: Callable[[], float]
    ) -> None:
        self.ttl_s = ttl_s
        self._limits = limits
        self._ttl = max(1, int(ttl_s / TICK_S))
        self._draw = draw
        self._swarms: dict[bytes, _Swarm] = {}
        self._wheel = Wheel(self._ttl + 3, int(now / TICK_S))
        self._completed: OrderedDict[bytes, int] = OrderedDict()
        "Outlives its swarm, as long as there is room."
        self._copied: dict[bytes, int] | None = None
        "Its last copy, until it changes."
        self._seeds = self._leechers = 0
        self._total_completed = self._unlisted = self._expired = 0

    def announce(self, announce: Announce, now: float) -> Found:
        """See `Storage.announce`."""
        info_hash, peer_id, host, port, event, is_seed, wanted = announce
        swarm = self._swarms.get(info_hash)
        entry = host + _PORT(port)
        # `_kind_of(host)`, without the call: this is what a tracker does all day.
        kind = len(host)
        if host[0] == 127 if kind == 4 else host == _LOOPBACK6:
            kind = -kind
        if event is _STOPPED:
            if swarm is not None:
                self._remove(swarm, kind, entry)
            return Found(*self.counts(info_hash), b"", b"")
        tick = int(now / TICK_S)
        if swarm is None:
            if len(self._swarms) >= self._limits.swarms:
                raise Full
            swarm = self._swarms[info_hash] = _Swarm()
            self._wheel.add(info_hash, tick + self._ttl + 1)
        pair = swarm.kinds.get(kind) or swarm.of(kind)
        seeds, leechers = pair
        own = (seeds if is_seed else leechers).touch(entry, peer_id, tick)
        if own < 0:
            own = self._store(swarm, pair, kind, entry, announce, tick)
        # A seed has no use for seeds. A leecher gets as many of them as of leechers.
        if not wanted:
            found = b""
        elif is_seed:
            found = leechers.sample(wanted, self._draw())
        else:
            found = _half(seeds, leechers, wanted, self._draw, own)
        if len(swarm.kinds) > 1:
            by_width = {6: b"", 18: b"", len(host) + 2: found}
            self._add_others(swarm, kind, is_seed, wanted, by_width)
            peers4, peers6 = by_width[6], by_width[18]
        else:
            peers4, peers6 = (found, b"") if len(host) == 4 else (b"", found)
        completed = self._completed.get(info_hash, 0)
        return make_tuple(Found, (swarm.seeds, swarm.leechers, completed, peers4, peers6))

    def _store(
        self,
        swarm: _Swarm,
        pair: tuple[Peers, Peers],
        kind: int,
        entry: bytes,
        announce: Announce,
        tick: int,
    ) -> int:
        """Add a peer that is not known in its role; its place, or `ABSENT` without room for it."""
        info_hash, peer_id, host, _, event, is_seed, _ = announce
        seeds, leechers = pair
        known, other, change = (seeds, leechers, 1) if is_seed else (leechers, seeds, -1)
        if other.drop(entry):
            # It has the other role now.
            self._seeds += change
            self._leechers -= change
            swarm.seeds += change
            swarm.leechers -= change
        elif self._has_room(swarm, kind, seeds, leechers, host):
            self._changed(swarm, 1, is_seed)
        else:
            self._unlisted += 1
            return ABSENT
        if event is _COMPLETED and is_seed:
            self._count_completed(info_hash)
        return known.add(entry, peer_id, tick)

    def _changed(self, swarm: _Swarm, peers: int, are_seeds: bool) -> None:
        """Count peers that came or went."""
        if are_seeds:
            self._seeds += peers
            swarm.seeds += peers
        else:
            self._leechers += peers
            swarm.leechers += peers

    def _has_room(
        self, swarm: _Swarm, kind: int, seeds: Peers, leechers: Peers, host: bytes
    ) -> bool:
        if self._is_full(swarm):
            return False
        most = self._limits.peers_per_subnet
        if seeds.count + leechers.count < most or kind < 0:
            return True
        subnet = host[: SUBNET_BYTES[kind]]
        near = seeds.count_prefix(subnet, most) + leechers.count_prefix(subnet, most)
        return near < most or not ipaddress.ip_address(host).is_global

    def _is_full(self, swarm: _Swarm) -> bool:
        limits = self._limits
        return (
            self._seeds + self._leechers >= limits.peers
            or swarm.seeds + swarm.leechers >= limits.peers_per_swarm
        )

    def _count_completed(self, info_hash: bytes) -> None:
        self._total_completed += 1
        self._completed[info_hash] = self._completed.get(info_hash, 0) + 1
        self._keep_completed(info_hash)

    def _keep_completed(self, info_hash: bytes) -> None:
        self._copied = None
        self._completed.move_to_end(info_hash)
        if len(self._completed) > self._limits.swarms:
            self._completed.popitem(last=False)

    def _remove(self, swarm: _Swarm, kind: int, entry: bytes) -> None:
        for peers, are_seeds in zip(swarm.of(kind), (True, False), strict=True):
            if peers.drop(entry):
                self._changed(swarm, -1, are_seeds)

    def _add_others(
        self, swarm: _Swarm, own: int, is_seed: bool, wanted: int, found: dict[int, bytes]
    ) -> None:
        """Add peers of other kinds to those of the announcer's own, by the size of entries."""
        wanted -= len(found[abs(own) + 2]) // (abs(own) + 2)
        for kind in _TOLD[own][1:]:
            pair = swarm.kinds.get(kind)
            if pair is not None and wanted > 0:
                seeds, leechers = pair
                if is_seed:
                    some = leechers.sample(wanted, self._draw())
                else:
                    some = _half(seeds, leechers, wanted, self._draw, ABSENT)
                width = abs(kind) + 2
                found[width] += some
                wanted -= len(some) // width

    def counts(self, info_hash: bytes) -> Counts:
        """See `Storage.counts`."""
        swarm = self._swarms.get(info_hash)
        completed = self._completed.get(info_hash, 0)
        if swarm is None:
            return Counts(0, 0, completed)
        return Counts(swarm.seeds, swarm.leechers, completed)

    def peer_id(self, info_hash: bytes, entry: bytes) -> bytes:
        """See `Storage.peer_id`."""
        swarm = self._swarms.get(info_hash)
        pair = swarm.kinds.get(_kind_of(entry[:-2])) if swarm is not None else None
        return pair[0].id_of(entry) or pair[1].id_of(entry) if pair is not None else b""

    def expire(self, now: float) -> list[tuple[bytes, bytes]]:
        """See `Storage.expire`."""
        tick = int(now / TICK_S)
        expired: list[tuple[bytes, bytes]] = []
        for info_hash in self._wheel.due(tick):
            swarm = self._swarms[info_hash]
            oldest: list[int] = []
            for seeds, leechers in swarm.kinds.values():
                for peers, are_seeds in ((seeds, True), (leechers, False)):
                    gone = peers.expire(tick - self._ttl)
                    self._changed(swarm, -len(gone), are_seeds)
                    expired += [(info_hash, entry) for entry in gone]
                oldest += [t for t in (seeds.oldest(), leechers.oldest()) if t is not None]
            if oldest:
                self._wheel.add(info_hash, min(oldest) + self._ttl + 1)
            else:
                del self._swarms[info_hash]
        self._expired += len(expired)
        return expired

    def learn(
        self, info_hash: bytes, entry: bytes, peer_id: bytes, is_seed: bool, seen: float, now: float
    ) -> None:
        """Note that a peer announced itself elsewhere at `seen`, unless more recent is known."""
        tick = int(seen / TICK_S)
        if tick < int(now / TICK_S) - self._ttl:
            return
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            if len(self._swarms) >= self._limits.swarms:
                return
            swarm = self._swarms[info_hash] = _Swarm()
            self._wheel.add(info_hash, tick + self._ttl + 1)
        kind = _kind_of(entry[:-2])
        known, other = swarm.of(kind) if is_seed else reversed(swarm.of(kind))
        before = known.seen(entry)
        if before is None and (before := other.seen(entry)) is None:
            if self._is_full(swarm):
                self._unlisted += 1
                return
        elif tick < before:
            return
        if other.drop(entry):
            self._changed(swarm, -1, not is_seed)
        if known.touch(entry, peer_id, tick) == ABSENT:
            known.add(entry, peer_id, tick)
            self._changed(swarm, 1, is_seed)

    def forget(self, info_hash: bytes, entry: bytes, seen: float) -> None:
        """Remove a peer that left at `seen`, unless it announced itself since."""
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            return
        kind = _kind_of(entry[:-2])
        if all((peers.seen(entry) or 0) <= int(seen / TICK_S) for peers in swarm.of(kind)):
            self._remove(swarm, kind, entry)

    def set_completed(self, info_hash: bytes, count: int) -> None:
        """Correct how many downloads were completed."""
        if count and count != self._completed.get(info_hash):
            self._completed[info_hash] = count
            self._keep_completed(info_hash)

    def completed(self) -> Mapping[bytes, int]:
        """A copy of the counters of completed downloads, by info-hash."""
        if self._copied is None:
            self._copied = dict(self._completed)
        return self._copied

    def info_hashes(self) -> list[bytes]:
        """Of the swarms."""
        return list(self._swarms)

    def peers(self, info_hash: bytes) -> Iterator[tuple[bytes, bytes, bool, float]]:
        """Entry, id, whether it is a seed, and when it announced itself, of every peer."""
        swarm = self._swarms.get(info_hash)
        for pair in list(swarm.kinds.values()) if swarm is not None else ():
            for peers, is_seed in zip(pair, (True, False), strict=True):
                for entry, peer_id, tick in peers:
                    yield entry, peer_id, is_seed, tick * TICK_S

    def statistics(self) -> Statistics:
        """See `Storage.statistics`."""
        return Statistics(
            len(self._swarms),
            self._seeds,
            self._leechers,
            self._total_completed,
            self._unlisted,
            self._expired,
        )
