"""Swarms in memory: bounded, and expired by a time wheel of swarms."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aitorrent_tracker.swarms.peers import Peers
from aitorrent_tracker.swarms.storage import (
    Announce,
    Counts,
    Event,
    Found,
    Full,
    Statistics,
)
from aitorrent_tracker.swarms.wheel import Wheel

TICK_S: Final = 10.0
"Peers expire this much later than they must, at most."
SUBNET_BYTES: Final = {4: 3, 16: 7}
"A /24 or a /56, of which one party may own every address; by the size of the address."
_LOOPBACK6: Final = bytes(15) + b"\x01"


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


class _Swarm:
    """Seeds and leechers by the kind of address."""

    __slots__ = ("kinds",)

    def __init__(self) -> None:
        self.kinds: dict[tuple[int, bool], tuple[Peers, Peers]] = {}
        "By size of the address and whether it is loopback: seeds, leechers."

    def of(self, kind: tuple[int, bool]) -> tuple[Peers, Peers]:
        found = self.kinds.get(kind)
        if found is None:
            width = kind[0] + 2
            found = self.kinds[kind] = (Peers(width), Peers(width))
        return found

    def size(self) -> int:
        return sum(len(seeds) + len(leechers) for seeds, leechers in self.kinds.values())


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
        info_hash, _, host, port, event, is_seed, wanted = announce
        swarm = self._swarms.get(info_hash)
        entry = host + port.to_bytes(2, "big")
        kind = (len(host), is_loopback(host))
        if event is Event.STOPPED:
            if swarm is not None:
                self._remove(swarm, kind, entry)
            return Found(self.counts(info_hash), b"", b"")
        if swarm is None:
            if len(self._swarms) >= self._limits.swarms:
                raise Full
            swarm = self._swarms[info_hash] = _Swarm()
            self._wheel.add(info_hash, int(now / TICK_S) + self._ttl + 1)
        self._store(swarm, kind, entry, announce, int(now / TICK_S))
        counts = self.counts(info_hash)
        if not wanted:
            return Found(counts, b"", b"")
        return self._found(swarm, kind, entry, is_seed, wanted, counts)

    def _store(
        self, swarm: _Swarm, kind: tuple[int, bool], entry: bytes, announce: Announce, tick: int
    ) -> None:
        seeds, leechers = swarm.of(kind)
        was_seed = entry in seeds
        if not was_seed and entry not in leechers:
            if not self._has_room(swarm, seeds, leechers, announce.host):
                self._unlisted += 1
                return
        elif was_seed != announce.is_seed:
            self._remove(swarm, kind, entry)
        if announce.event is Event.COMPLETED and announce.is_seed and not was_seed:
            self._count_completed(announce.info_hash)
        self._put(swarm, kind, entry, announce.peer_id, announce.is_seed, tick)

    def _put(
        self,
        swarm: _Swarm,
        kind: tuple[int, bool],
        entry: bytes,
        peer_id: bytes,
        is_seed: bool,
        tick: int,
    ) -> None:
        peers = swarm.of(kind)[0 if is_seed else 1]
        before = len(peers)
        peers.put(entry, peer_id, tick)
        if is_seed:
            self._seeds += len(peers) - before
        else:
            self._leechers += len(peers) - before

    def _has_room(self, swarm: _Swarm, seeds: Peers, leechers: Peers, host: bytes) -> bool:
        limits = self._limits
        if self._seeds + self._leechers >= limits.peers or swarm.size() >= limits.peers_per_swarm:
            return False
        subnet = host[: SUBNET_BYTES[len(host)]]
        if len(seeds) + len(leechers) < limits.peers_per_subnet:
            return True
        most = limits.peers_per_subnet
        near = seeds.count_prefix(subnet, most) + leechers.count_prefix(subnet, most)
        return near < most or not ipaddress.ip_address(host).is_global

    def _count_completed(self, info_hash: bytes) -> None:
        self._total_completed += 1
        self._completed[info_hash] = self._completed.get(info_hash, 0) + 1
        self._keep_completed(info_hash)

    def _keep_completed(self, info_hash: bytes) -> None:
        self._copied = None
        self._completed.move_to_end(info_hash)
        if len(self._completed) > self._limits.swarms:
            self._completed.popitem(last=False)

    def _remove(self, swarm: _Swarm, kind: tuple[int, bool], entry: bytes) -> None:
        seeds, leechers = swarm.of(kind)
        self._seeds -= seeds.drop(entry)
        self._leechers -= leechers.drop(entry)

    def _found(
        self,
        swarm: _Swarm,
        own: tuple[int, bool],
        entry: bytes,
        is_seed: bool,
        wanted: int,
        counts: Counts,
    ) -> Found:
        """Peers of the announcer's own kind first; loopback addresses only for loopback."""
        width, is_local = own
        other = 20 - width
        kinds = [own, (other, is_local)]
        if is_local:
            kinds += [(width, False), (other, False)]
        found = {4: b"", 16: b""}
        for kind in kinds:
            pair = swarm.kinds.get(kind)
            if pair is None:
                continue
            seeds, leechers = pair
            # A seed has no use for seeds. A leecher gets as many of them as of leechers.
            share = min(len(seeds), max(wanted - wanted // 2, wanted - len(leechers)))
            some = b"" if is_seed else seeds.sample(share, self._draw(), entry)
            size = kind[0] + 2
            some += leechers.sample(wanted - len(some) // size, self._draw(), entry)
            found[kind[0]] += some
            wanted -= len(some) // size
            if wanted <= 0:
                break
        return Found(counts, found[4], found[16])

    def counts(self, info_hash: bytes) -> Counts:
        """See `Storage.counts`."""
        seeds = leechers = 0
        swarm = self._swarms.get(info_hash)
        if swarm is not None:
            for some_seeds, some_leechers in swarm.kinds.values():
                seeds += len(some_seeds)
                leechers += len(some_leechers)
        return Counts(seeds, leechers, self._completed.get(info_hash, 0))

    def peer_id(self, info_hash: bytes, entry: bytes) -> bytes:
        """See `Storage.peer_id`."""
        swarm = self._swarms.get(info_hash)
        host = entry[:-2]
        pair = swarm.kinds.get((len(host), is_loopback(host))) if swarm is not None else None
        return pair[0].id_of(entry) or pair[1].id_of(entry) if pair is not None else b""

    def expire(self, now: float) -> list[tuple[bytes, bytes]]:
        """See `Storage.expire`."""
        tick = int(now / TICK_S)
        expired: list[tuple[bytes, bytes]] = []
        for info_hash in self._wheel.due(tick):
            swarm = self._swarms[info_hash]
            oldest: list[int] = []
            for seeds, leechers in swarm.kinds.values():
                gone = seeds.expire(tick - self._ttl), leechers.expire(tick - self._ttl)
                self._seeds -= len(gone[0])
                self._leechers -= len(gone[1])
                expired += [(info_hash, entry) for entries in gone for entry in entries]
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
        kind = (len(entry) - 2, is_loopback(entry[:-2]))
        known, other = swarm.of(kind) if is_seed else reversed(swarm.of(kind))
        before = known.seen(entry)
        if before is None and (before := other.seen(entry)) is None:
            limits, all_peers = self._limits, self._seeds + self._leechers
            if all_peers >= limits.peers or swarm.size() >= limits.peers_per_swarm:
                self._unlisted += 1
                return
        elif tick < before:
            return
        if entry in other:
            self._remove(swarm, kind, entry)
        self._put(swarm, kind, entry, peer_id, is_seed, tick)

    def forget(self, info_hash: bytes, entry: bytes, seen: float) -> None:
        """Remove a peer that left at `seen`, unless it announced itself since."""
        swarm = self._swarms.get(info_hash)
        if swarm is None:
            return
        kind = (len(entry) - 2, is_loopback(entry[:-2]))
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
