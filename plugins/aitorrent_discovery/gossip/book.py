"""The records that this node heard: bounded, current, and each with the hops it has left. No I/O.

A record starts at its own node with 3 hops. Whoever passes it on takes one off, and nobody passes
on one that has none left. Nothing in the book is trusted beyond its signature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from aitorrent_discovery.records.codec import (
    FUTURE_S,
    SKEW_S,
    PeerRecord,
    Refused,
    check_current,
    read_record,
)
from aitorrent_discovery.records.places import dialable, is_global, subnet
from aitorrentd.api import PeerId, ProtocolError
from aitorrentd.api.network.addresses import Address

MAX_HOPS: Final = 3
MAX_RECORDS: Final = 1024
MAX_PER_SUBNET: Final = 32
"Of one /16 or /32 of the public Internet: cheap identities must not fill the book."


class Outcome(StrEnum):
    """What became of a record that a peer passed on."""

    NEW = "new"
    UPDATED = "updated"
    KNOWN = "known"
    STALE = "stale"
    OWN = "own"
    CROWDED = "crowded"


@dataclass(slots=True)
class Heard:
    """A record in the book."""

    record: PeerRecord
    hops: int
    "Hops left, counting the one to this node: it may be passed on with one less."
    places: tuple[Address, ...]
    "Its addresses that this node may dial; see `places.dialable`."
    teller: PeerId
    "Who passed it on."


@dataclass(frozen=True, slots=True)
class Item:
    """A record on its way to a peer."""

    hops: int
    raw: bytes


class Book:
    """Records by peer; the newest sequence number of each."""

    def __init__(
        self,
        me: PeerId,
        network: bytes,
        own: Callable[[], Iterable[Address]] = tuple,
        *,
        max_records: int = MAX_RECORDS,
    ) -> None:
        self._me = me
        self._network = network
        self._own = own
        self._max = max_records
        self._heard: dict[PeerId, Heard] = {}

    def __len__(self) -> int:
        return len(self._heard)

    def __iter__(self) -> Iterator[Heard]:
        return iter(list(self._heard.values()))

    def get(self, peer: PeerId) -> Heard | None:
        """The record of `peer`, or None."""
        return self._heard.get(peer)

    def take(self, item: Item, sender: PeerId, host: str, now: float) -> tuple[Outcome, PeerRecord]:
        """Enter what `sender`, connected from `host`, passed on; `now` is the time of day.

        Raises:
            Refused: the record is not believed. ProtocolError: it claims more hops than possible.
        """
        known = next((h for h in self._heard.values() if h.record.raw == item.raw), None)
        record = known.record if known is not None else read_record(item.raw)
        if not 1 <= item.hops <= (MAX_HOPS if record.peer == sender else MAX_HOPS - 1):
            raise ProtocolError(f"a peer record with {item.hops} hops left")
        if record.peer == self._me:
            return Outcome.OWN, record
        if known is not None:
            known.hops = max(known.hops, item.hops)
            return Outcome.KNOWN, record
        check_current(
            record, self._network, now, future_s=SKEW_S if record.peer == sender else FUTURE_S
        )
        before = self._heard.get(record.peer)
        if before is not None and before.record.sequence >= record.sequence:
            return Outcome.STALE, record
        places = dialable(record.addresses, host, self._own())
        entry = Heard(record, item.hops, places, sender)
        if before is None and not self._make_room(entry, now):
            return Outcome.CROWDED, record
        self._heard.pop(record.peer, None)
        self._heard[record.peer] = entry
        return (Outcome.NEW if before is None else Outcome.UPDATED), record

    def restore(self, entry: Heard, now: float) -> None:
        """Enter a record of an earlier run."""
        try:
            check_current(entry.record, self._network, now, future_s=SKEW_S)
        except Refused:
            return
        if entry.record.peer != self._me and self._make_room(entry, now):
            self._heard.setdefault(entry.record.peer, entry)

    def _make_room(self, entry: Heard, now: float) -> bool:
        wanted = _public_subnet(entry)
        if wanted is not None:
            beside = sum(_public_subnet(heard) == wanted for heard in self._heard.values())
            if beside >= MAX_PER_SUBNET:
                return False
        if len(self._heard) < self._max:
            return True
        self.expire(now)
        if len(self._heard) < self._max:
            return True
        # Who fills the book makes room in it: the oldest record of the teller that has the most.
        tellers = Counter(heard.teller for heard in self._heard.values())
        greedy = max(tellers, key=lambda teller: tellers[teller])
        oldest = next(p for p, heard in self._heard.items() if heard.teller == greedy)
        del self._heard[oldest]
        return True

    def expire(self, now: float) -> None:
        """Drop records whose time is over."""
        for peer in [p for p, heard in self._heard.items() if heard.record.expires <= now]:
            del self._heard[peer]

    def forget(self, peer: PeerId) -> None:
        """Drop the record of `peer`."""
        self._heard.pop(peer, None)

    def offers(
        self, to: PeerId, has: Callable[[bytes], bool], now: float, limit: int
    ) -> Iterator[tuple[PeerRecord, Item]]:
        """What to pass on to a peer that has the records for which `has` is true; newest first."""
        left = limit
        for heard in reversed(list(self._heard.values())):
            if left <= 0:
                return
            record = heard.record
            if heard.hops <= 1 or record.peer == to or heard.teller == to:
                continue
            # Others would refuse what is about to expire, or not to begin yet.
            if record.expires <= now + 1 or record.issued > now + FUTURE_S or has(record.key):
                continue
            left -= 1
            yield record, Item(heard.hops - 1, record.raw)


def _public_subnet(heard: Heard) -> str | None:
    """The subnet of the first public IP address, if there is one."""
    for address in heard.record.addresses:
        if address.family in ("ip4", "ip6") and is_global(address.host):
            return subnet(address.host)
    return None
