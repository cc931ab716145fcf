"""Whom to dial next. No I/O and no clock.

Three kinds of candidates: nodes on the local network, nodes that this one has dialled before, and
nodes that it only heard of. In a new run the last kind waits until each of the second was tried, so
a poisoned book cannot surround a node that restarts (Heilman et al., "Eclipse Attacks on Bitcoin's
Peer-to-Peer Network", 2015).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from aitorrent_discovery.gossip.book import Book
from aitorrent_discovery.peers.standing import Standings
from aitorrent_discovery.records.places import is_global, subnet
from aitorrentd.api import PeerId
from aitorrentd.api.network.addresses import Address

MAX_ANCHORS: Final = 256
MAX_LAN: Final = 64
MAX_PER_SUBNET: Final = 2
"Dialled connections into one public /16 or /32."


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer to dial."""

    peer: PeerId
    addresses: tuple[Address, ...]
    kind: str
    "lan, dialled or heard."


class Candidates:
    """What this node knows of peers that it is not connected to."""

    def __init__(self, book: Book, standings: Standings) -> None:
        self._book = book
        self._standings = standings
        self._lan: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()
        self._anchors: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()

    def on_lan(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """`peer` announces itself on the local network."""
        self._lan[peer] = addresses
        self._lan.move_to_end(peer)
        if len(self._lan) > MAX_LAN:
            self._lan.popitem(last=False)

    def off_lan(self, peer: PeerId) -> None:
        """`peer` withdrew its announcement."""
        self._lan.pop(peer, None)

    def dialled(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """A dial to `peer` succeeded, in this run or an earlier one."""
        if not addresses:
            return
        self._anchors[peer] = tuple(addresses)
        self._anchors.move_to_end(peer)
        if len(self._anchors) > MAX_ANCHORS:
            self._anchors.popitem(last=False)

    @property
    def anchors(self) -> list[tuple[PeerId, tuple[Address, ...]]]:
        """Peers that this node dialled, the most recent last."""
        return list(self._anchors.items())

    @property
    def lan(self) -> list[PeerId]:
        """Peers that announce themselves on the local network."""
        return list(self._lan)

    def count(self) -> dict[str, int]:
        """How many candidates of each kind there are, connected or not."""
        heard = sum(bool(h.places) for h in self._book if h.record.peer not in self._anchors)
        return {"lan": len(self._lan), "dialled": len(self._anchors), "heard": heard}

    def choose(
        self,
        connected: Collection[PeerId],
        hosts: Sequence[str],
        now: float,
        limit: int,
    ) -> list[Candidate]:
        """Up to `limit` peers to dial now; `hosts` are where dialled connections lead."""
        crowd = Counter(subnet(host) for host in hosts if is_global(host))
        chosen: list[Candidate] = []
        for candidate in self._in_order(connected, now):
            if len(chosen) >= limit:
                break
            place = candidate.addresses[0].host
            if is_global(place):
                if crowd[subnet(place)] >= MAX_PER_SUBNET:
                    continue
                crowd[subnet(place)] += 1
            chosen.append(candidate)
        return chosen

    def _in_order(self, connected: Collection[PeerId], now: float) -> Iterator[Candidate]:
        def ready(peer: PeerId) -> bool:
            return peer not in connected and self._standings.of(peer).dial_after <= now

        by_trust = self._standings.by_trust
        for peer in by_trust(filter(ready, self._lan), now):
            yield Candidate(peer, self._lan[peer], "lan")
        anchors = {peer: places for peer, places in self._anchors.items() if peer not in self._lan}
        for peer in by_trust(filter(ready, anchors), now):
            yield Candidate(peer, self._places(peer) or anchors[peer], "dialled")
        if any(not self._standings.of(p).tried and p not in connected for p in anchors):
            return
        heard = {h.record.peer for h in self._book if h.places} - set(self._lan) - set(anchors)
        for peer in by_trust(filter(ready, sorted(heard)), now):
            yield Candidate(peer, self._places(peer), "heard")

    def _places(self, peer: PeerId) -> tuple[Address, ...]:
        heard = self._book.get(peer)
        return heard.places if heard is not None else ()
