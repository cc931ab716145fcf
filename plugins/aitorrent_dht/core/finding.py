"""What a node does in the DHT: find nodes, get records, put a record.

Where ids are far denser around a key than in the network as a whole, somebody may have placed nodes
there to hide it (an eclipse attack). Records are then kept and sought in the whole region around
the key, whose honest nodes such an attack does not outnumber (SR-DHT-Store, arXiv 2505.01139).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aitorrent_dht.core.contact import ID_BITS, ID_SPACE, Contact
from aitorrent_dht.core.lookup import Lookup
from aitorrent_dht.core.record import DhtRecord
from aitorrent_dht.core.rpc import Rpc
from aitorrent_dht.core.state import NodeState
from aitorrent_dht.core.walk import Walk
from aitorrent_dht.wire.messages import Query, Refusal, Reply

QUORUM: Final = 2
"Disjoint paths that must have found records before a search ends early."
DENSE: Final = 8.0
"How many times denser than the network ids around a key are before its region is searched."
MIN_DENSE: Final = 8
"Nodes from which density can be judged."
REGION_BITS: Final = 3
REGION_POINTS: Final = 1 << 3
"At which a region is searched, the key being one of them."


@dataclass(slots=True)
class Found:
    """The outcome of a search."""

    records: list[DhtRecord] = field(default_factory=list)
    closest: list[Contact] = field(default_factory=list)
    "The nearest nodes that answered, nearest first."
    hops: int = 0
    sent: int = 0
    "Requests."
    is_dense: bool = False
    "Whether an attack on the key was suspected, and its region searched."


@dataclass(slots=True)
class Stored:
    """The outcome of putting a record."""

    count: int = 0
    "Nodes that keep it."
    refusals: dict[Refusal, int] = field(default_factory=dict)
    newer: DhtRecord | None = None
    "A record of the same publisher with a higher number."
    closest: list[Contact] = field(default_factory=list)
    sent: int = 0
    is_dense: bool = False


class Finding:
    """Searches of one node."""

    def __init__(self, state: NodeState, rpc: Rpc) -> None:
        self._state = state
        self._rpc = rpc

    def find_nodes(
        self,
        target: int,
        now: float,
        on_end: Callable[[Walk, float], None],
        *,
        paths: int = 1,
        k: int | None = None,
        seeds: Sequence[Contact] = (),
    ) -> None:
        """Find the nodes nearest to `target`."""
        self._walk(target, now, on_end, paths=paths, k=k, seeds=seeds)

    def get(self, key: bytes, target: int, now: float, on_end: Callable[[Found], None]) -> None:
        """Find the records under `key`, on disjoint paths, until two of them have some.

        Of each publisher, `on_end` gets the record with the highest number among the answers; its
        signature is verified. A higher number may exist at nodes that were not asked: a publisher
        puts a record at the nodes nearest to the key, and one that was away then keeps the last one
        until the publisher puts the record again, within an hour.
        """
        own = self._state.store.get(key, self._state.epoch_s(now))

        def ended(walk: Walk, now: float) -> None:
            found = self._found(walk)
            if found.is_dense and not walk.records:
                self._search_region(target, now, lambda nodes, now: ask(nodes, now, found))
                return
            finish(found, walk.records)

        def ask(nodes: list[Contact], now: float, found: Found) -> None:
            def asked(walk: Walk, now: float) -> None:
                found.sent += walk.sent
                finish(found, walk.records)

            lookup = Lookup(
                target,
                nodes,
                own_id=self._state.id,
                k=len(nodes) or 1,
                alpha=4 * self._state.tuning.alpha,
                quorum=1,
                grows=False,
            )
            Walk(self._state, self._rpc, lookup, asked, key=key).start(now)

        def finish(found: Found, records: dict[bytes, DhtRecord]) -> None:
            newest = {record.publisher: record for record in own}
            for record in records.values():
                held = newest.get(record.publisher)
                if held is None or held.seq < record.seq:
                    newest[record.publisher] = record
            found.records = [record for record in newest.values() if not record.is_deleted]
            on_end(found)

        # What this node keeps itself is an answer like that of any node near the key.
        quorum = QUORUM - 1 if own else QUORUM
        self._walk(target, now, ended, paths=self._state.tuning.paths, quorum=quorum, key=key)

    def put(
        self,
        record: DhtRecord,
        now: float,
        on_end: Callable[[Stored, float], None],
        *,
        seeds: Sequence[Contact] = (),
    ) -> None:
        """Store `record` at the nodes nearest to its key."""

        def ended(walk: Walk, now: float) -> None:
            found = self._found(walk)
            stored = Stored(closest=found.closest, sent=found.sent, is_dense=found.is_dense)
            if not found.is_dense:
                self._store(record, stored, found.closest, walk.tokens, now, on_end)
                return

            def searched(nodes: list[Contact], now: float) -> None:
                beside = [n for n in nodes if n not in found.closest]
                places = [*found.closest, *beside[: 2 * self._state.tuning.k]]
                self._store(record, stored, places, walk.tokens, now, on_end)

            self._search_region(record.target, now, searched)

        self._walk(record.target, now, ended, paths=self._state.tuning.paths, seeds=seeds)

    # Parts

    def _walk(
        self,
        target: int,
        now: float,
        on_end: Callable[[Walk, float], None],
        *,
        paths: int = 1,
        quorum: int = 0,
        k: int | None = None,
        key: bytes = b"",
        seeds: Sequence[Contact] = (),
        avoid: tuple[int, int] | None = None,
    ) -> None:
        state = self._state

        def is_wanted(contact: Contact) -> bool:
            # One bucket of nodes to avoid must not be all that a lookup starts from.
            is_avoided = avoid is not None and contact.id ^ avoid[0] < avoid[1]
            return not is_avoided and state.can_use(contact)

        near = state.table.closest(target, state.tuning.k, is_wanted)
        known = dict.fromkeys([*seeds, *near])
        lookup = Lookup(
            target,
            sorted(known, key=lambda contact: contact.id ^ target),
            own_id=state.id,
            k=state.tuning.k if k is None else k,
            alpha=state.tuning.alpha,
            paths=paths,
            quorum=quorum,
            avoid=avoid,
        )
        state.counts["lookups"] += 1

        def ended(walk: Walk, now: float) -> None:
            if lookup.is_whole and avoid is None:
                state.density.note(target, lookup.closest(lookup.k))
            on_end(walk, now)

        Walk(state, self._rpc, lookup, ended, key=key).start(now)

    def _found(self, walk: Walk) -> Found:
        closest = walk.lookup.closest(self._state.tuning.k)
        is_dense = self._is_dense(walk.lookup.target, closest)
        return Found(closest=closest, hops=walk.lookup.hops, sent=walk.sent, is_dense=is_dense)

    def _is_dense(self, target: int, closest: Sequence[Contact]) -> bool:
        if len(closest) < MIN_DENSE:
            return False
        radius = closest[-1].id ^ target
        size = max(self._state.network_size(), self._state.tuning.k)
        return radius * DENSE < len(closest) * ID_SPACE / size

    def _search_region(
        self, target: int, now: float, on_end: Callable[[list[Contact], float], None]
    ) -> None:
        """Find nodes at points spread over the region in which k nodes are expected.

        Nodes right at the key are passed by: they would name one another as the nearest to every
        point, and hardly any honest one is among them.
        """
        state, k = self._state, self._state.tuning.k
        size = max(state.network_size(), 2.0 * k)
        depth = max(0, math.floor(math.log2(size / k)) - 1)
        shift = ID_BITS - depth - REGION_BITS
        points = [target ^ (i << shift) for i in range(1, REGION_POINTS)]
        avoid = (target, int(k / DENSE * ID_SPACE / size))
        nodes: dict[Contact, None] = {}
        waiting = len(points)

        def ended(walk: Walk, now: float) -> None:
            nonlocal waiting
            waiting -= 1
            nodes.update(dict.fromkeys(walk.lookup.closest(k)))
            if not waiting:
                inside = [n for n in nodes if (n.id ^ target) >> (ID_BITS - depth) == 0]
                on_end(inside or list(nodes), now)

        for point in points:
            self._walk(point, now, ended, k=k // 2, avoid=avoid)

    def _store(
        self,
        record: DhtRecord,
        stored: Stored,
        nodes: Sequence[Contact],
        tokens: dict[int, bytes],
        now: float,
        on_end: Callable[[Stored, float], None],
    ) -> None:
        waiting = len(nodes)
        if not waiting:
            on_end(stored, now)
            return

        def ask(contact: Contact, token: bytes, now: float, *, is_first: bool) -> None:
            def replied(reply: Reply, contact: Contact, now: float) -> None:
                if reply.refusal is Refusal.TOKEN and is_first:
                    ask(contact, reply.token, now, is_first=False)
                    return
                if reply.refusal is Refusal.NONE:
                    stored.count += 1
                else:
                    stored.refusals[reply.refusal] = stored.refusals.get(reply.refusal, 0) + 1
                    self._note_newer(record, stored, reply)
                finish(now)

            request = self._rpc.request(Query.STORE)
            request.record, request.token = record, token
            stored.sent += 1
            self._rpc.ask(contact, request, now, on_reply=replied, on_fail=finish)

        def finish(now: float) -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                on_end(stored, now)

        for contact in nodes:
            ask(contact, tokens.get(contact.id, b""), now, is_first=True)

    def _note_newer(self, record: DhtRecord, stored: Stored, reply: Reply) -> None:
        """Believe in a newer record only when it is shown, with its publisher's signature."""
        for shown in reply.records:
            same = (shown.key, shown.publisher) == (record.key, record.publisher)
            is_newer = shown.seq >= (stored.newer.seq if stored.newer else record.seq)
            if same and is_newer and self._state.verify(shown):
                stored.newer = shown
