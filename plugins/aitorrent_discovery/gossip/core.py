"""One node's part in gossip: what it says, what it believes, and whom it talks to. No I/O.

Records are dated by the time of day, limits by the monotonic clock: the former may jump.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from aitorrent_discovery.gossip.book import MAX_HOPS, MAX_RECORDS, Book, Item, Outcome
from aitorrent_discovery.gossip.clocks import ClockWatch
from aitorrent_discovery.gossip.messages import MAX_ITEMS, Hello
from aitorrent_discovery.peers.standing import Standings
from aitorrent_discovery.records.bloom import SALT_BYTES, Bloom, Generations
from aitorrent_discovery.records.codec import (
    FUTURE_S,
    LIFETIME_S,
    PeerRecord,
    Refused,
    network_tag,
    sign_record,
)
from aitorrentd.api import Busy, Clock, Denied, PeerId, ProtocolError, Signer
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.network.addresses import Address, parse_address

FANOUT: Final = 3
EXCHANGES_PER_S: Final = 1 / 8
EXCHANGES_BURST: Final = 6
"Per peer and direction. A round every 30 s reaches each peer at most once."
TURN_S: Final = 600.0
MAX_REMEMBERED: Final = 1024


class Gossip:
    """The sans-IO core: hellos and items in, hellos and items out."""

    def __init__(
        self,
        signer: Signer,
        network: str,
        addresses: Callable[[], Sequence[str]],
        standings: Standings,
        clock: Clock,
        source: random.Random,
        *,
        capabilities: Sequence[str] = (),
        max_records: int = MAX_RECORDS,
    ) -> None:
        """`addresses` returns where this node can be dialled now."""
        self.on_fault: Callable[[PeerId, str], None] = lambda peer, reason: None
        "Called when a peer broke the rules, with what it did."
        self.standings = standings
        self.counts: Counter[str] = Counter()
        "What happened, by reason."
        self.clocks = ClockWatch()
        self.sequence = 0
        "Of this node's own record; a later run continues from it."
        self._me = signer.peer_id
        self._signer = signer
        self._network = network
        self._addresses = addresses
        self._capabilities = tuple(capabilities)
        self._clock = clock
        self._random = source
        self._own: PeerRecord | None = None
        self._own_of: tuple[str, ...] = ()
        self.book = Book(self._me, network_tag(network), self._places, max_records=max_records)
        self._sent: PerPeer[Generations] = PerPeer(
            lambda: Generations(MAX_RECORDS, TURN_S, source.randbytes(SALT_BYTES), 0.0),
            max_entries=MAX_REMEMBERED,
        )
        self._paces = PerPeer(lambda: TokenBucket(EXCHANGES_PER_S, EXCHANGES_BURST, 0.0))

    def _places(self) -> Iterable[Address]:
        return [parse_address(text) for text in self._addresses()]

    # This node's own record

    def own_record(self) -> PeerRecord | None:
        """This node's record, signed again when it is half over or the addresses changed.

        None while the node cannot be dialled anywhere.
        """
        now = self._clock.time()
        listed = tuple(self._addresses())
        own = self._own
        if not listed:
            return None
        if own is None or listed != self._own_of or not _is_fresh(own, now):
            # A clock that was ahead must not leave a sequence number that outruns all later ones.
            before = self.sequence if self.sequence <= (now + FUTURE_S) * 1000 else 0
            self.sequence = max(before + 1, int(now * 1000))
            own = self._own = sign_record(
                self._signer,
                self._network,
                listed,
                sequence=self.sequence,
                now=now,
                capabilities=self._capabilities,
            )
            self._own_of = listed
        return own

    # An exchange

    def partners(self, connected: Iterable[PeerId]) -> list[PeerId]:
        """The peers to exchange with in this round."""
        now = self._clock.monotonic()
        ready = [peer for peer in connected if self.standings.of(peer).exchange_after <= now]
        return self.standings.by_trust(ready, now)[:FANOUT]

    def admit(self, peer: PeerId) -> None:
        """Let `peer` begin an exchange.

        Raises:
            Denied: it broke the rules lately. Busy: it begins too many.
        """
        now = self._clock.monotonic()
        standing = self.standings.of(peer)
        if standing.refused_until > now:
            self.counts["refused"] += 1
            raise Denied(f"no gossip for now: {standing.fault}")
        if not self._paces.of(peer).take(now):
            self.counts["too_often"] += 1
            raise Busy("too many gossip exchanges; one every 30 s is enough")

    def hello(self) -> Hello:
        """What this node has."""
        now = self._clock.time()
        self.book.expire(now)
        keys = [heard.record.key for heard in self.book]
        if own := self.own_record():
            keys.append(own.key)
        return Hello(now, Bloom.of(keys, self._random.randbytes(SALT_BYTES)))

    def items(self, peer: PeerId, hello: Hello) -> list[Item]:
        """What `peer` lacks, this node's own record first."""
        now, since = self._clock.time(), self._clock.monotonic()
        self.clocks.note(peer, hello.at - now)
        sent = self._sent.of(peer)
        found: list[Item] = []
        own = self.own_record()
        if own is not None and own.key not in hello.has:
            found.append(Item(MAX_HOPS, own.raw))
        # What it did not keep, for lack of room, is not offered again until the filter turns.
        offered = self.book.offers(
            peer,
            lambda key: key in hello.has or sent.has(key, since),
            now,
            MAX_ITEMS - len(found),
        )
        for record, item in offered:
            sent.add(record.key, since)
            found.append(item)
        self.counts["sent"] += len(found)
        return found

    def take(self, peer: PeerId, host: str, items: Iterable[Item]) -> list[PeerId]:
        """Enter what `peer`, connected from `host`, passed on; returns whose records are new.

        Raises:
            ProtocolError: it broke the rules and is not talked to for a while.
        """
        now = self._clock.time()
        fresh = []
        for item in items:
            try:
                outcome, record = self.book.take(item, peer, host, now)
            except Refused as e:
                self.counts[e.reason.value] += 1
                if e.reason.is_fault:
                    self.fault(peer, e.message)
                    raise
                continue
            except ProtocolError as e:
                self.counts["inflated"] += 1
                self.fault(peer, e.message)
                raise
            self.counts[outcome.value] += 1
            if outcome in (Outcome.NEW, Outcome.UPDATED):
                fresh.append(record.peer)
        return fresh

    def fault(self, peer: PeerId, reason: str) -> None:
        """Note that `peer` broke the rules: there is no gossip with it for a while."""
        self.counts["faults"] += 1
        self.standings.fault(peer, reason, self._clock.monotonic())
        self.on_fault(peer, reason)


def _is_fresh(record: PeerRecord, now: float) -> bool:
    return record.issued - FUTURE_S <= now < record.issued + LIFETIME_S / 2
