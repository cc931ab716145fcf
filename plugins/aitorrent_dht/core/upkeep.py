"""Keeping a node in the DHT: joining, refreshing buckets, checking silent nodes, finding back.

Follows "Kademlia" (2002), section 2.3, but refreshes a bucket by asking a few of its nodes instead
of by a whole lookup: what a quiet node costs is mostly this.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from aitorrent_dht.core.contact import Contact, scope_of
from aitorrent_dht.core.finding import Finding
from aitorrent_dht.core.publishing import Publishing
from aitorrent_dht.core.rpc import Rpc
from aitorrent_dht.core.state import NodeState
from aitorrent_dht.core.table import Bucket
from aitorrent_dht.core.walk import Walk
from aitorrent_dht.wire.messages import Reply
from aitorrentd.api.backoff import equal_jitter_s

MAX_KNOWN: Final = 256
"Addresses to start from, the newest kept."
MAX_LOST: Final = 128
AT_ONCE: Final = 8
"Addresses that are tried at the same time to join."
ENOUGH: Final = 8
"With fewer nodes in the table the node goes on trying addresses."
MAX_WAIT_S: Final = 60.0
REACH_OUT_S: Final = 900.0
"Between two tries of an address outside the table, by which parts of a split network meet again."

Place = tuple[str, int]


class Upkeep:
    """The standing work of one node; `tick` repeats itself on the node's timers."""

    def __init__(
        self, state: NodeState, rpc: Rpc, finding: Finding, publishing: Publishing
    ) -> None:
        self.is_joined = False
        "Whether a lookup of the node's own id has ended, so that its neighbours know it."
        self._state = state
        self._rpc = rpc
        self._finding = finding
        self._publishing = publishing
        self._known: OrderedDict[Place, None] = OrderedDict()
        self._lost: OrderedDict[Place, None] = OrderedDict()
        self._trying: set[Place] = set()
        self._attempt = 0
        self._most = 0
        "Nodes in the table that are no news: only more of them end the growing of the pauses."
        self._next_try = 0.0
        self._reached_out_at = state.now
        self._is_joining = False
        rpc.on_lost = self._lose

    def start(self, now: float) -> None:
        """Begin; stops with the node's timers."""
        self.tick(now)

    def add_places(self, places: Iterable[Place], now: float) -> None:
        """Learn addresses at which nodes of the DHT may be."""
        new = [p for p in places if scope_of(p[0]) and 0 < p[1] < 65_536]
        for place in new:
            self._known[place] = None
            self._known.move_to_end(place)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        for place in new[:AT_ONCE]:
            self._try(place, now)

    def _lose(self, contact: Contact) -> None:
        self._most = min(self._most, len(self._state.table))
        if not self._most:
            self._attempt = 0
        self._lost[contact.host, contact.port] = None
        if len(self._lost) > MAX_LOST:
            self._lost.popitem(last=False)

    def tick(self, now: float) -> None:
        """One round of work."""
        state = self._state
        state.store.expire(state.epoch_s(now))
        state.is_client = state.reachability.is_client(now)
        if len(state.table) < ENOUGH and now >= self._next_try:
            self._try_known(now)
        elif now - self._reached_out_at >= REACH_OUT_S:
            self._reached_out_at = now
            self._reach_out(now)
        self._check_silent(now)
        self._refresh_one(now)
        self._publishing.run(now)
        wait_s = state.tuning.tick_s * (0.75 + state.random.random() / 2)
        if len(state.table) < ENOUGH:
            wait_s = min(wait_s, max(0.2, self._next_try - now))
        state.timers.at(now + wait_s, self.tick)

    # Joining

    def _try_known(self, now: float) -> None:
        draw = self._state.random.random()
        self._next_try = now + equal_jitter_s(self._attempt, cap_s=MAX_WAIT_S, draw=draw)
        self._attempt += 1
        places = [*self._known, *self._lost]
        self._state.random.shuffle(places)
        for place in places[:AT_ONCE]:
            self._try(place, now)

    def _reach_out(self, now: float) -> None:
        here = {(e.contact.host, e.contact.port) for e in self._state.table}
        outside = [p for p in dict.fromkeys([*self._known, *self._lost]) if p not in here]
        if outside:
            self._try(self._state.random.choice(outside), now)

    def _try(self, place: Place, now: float) -> None:
        if place in self._trying:
            return
        self._trying.add(place)

        def replied(reply: Reply, contact: Contact, now: float) -> None:
            self._trying.discard(place)
            self._lost.pop(place, None)
            if not reply.is_client:
                self._join(contact, now)

        def failed(now: float) -> None:
            self._trying.discard(place)

        self._rpc.ask_address(*place, now, on_reply=replied, on_fail=failed)

    def _join(self, contact: Contact, now: float) -> None:
        """Look up this node's own id, from a node that just answered."""
        if self._is_joining:
            return
        self._is_joining = True

        def ended(walk: Walk, now: float) -> None:
            self._is_joining = False
            if not walk.lookup.closest(1):
                return
            if len(self._state.table) > self._most:
                self._most = len(self._state.table)
                self._attempt = 0
            if not self.is_joined:
                self.is_joined = True
                self._publishing.refresh(now)
            self._publishing.run(now)

        self._finding.find_nodes(self._state.id, now, ended, seeds=[contact])

    # Keeping

    def _check_silent(self, now: float) -> None:
        """Ping the nodes that were silent for longest, if that is long."""
        limit = now - self._state.tuning.check_s
        silent = [entry for entry in self._state.table if entry.seen_at < limit]
        silent.sort(key=lambda entry: entry.seen_at)
        for entry in silent[:AT_ONCE]:
            self._rpc.ping(entry.contact, now)

    def _refresh_one(self, now: float) -> None:
        """Refresh the farthest bucket that fills up, else the one idle for longest, if for long.

        A lookup whose first nodes are right needs few more, so buckets are filled soon after the
        node joined, a few nodes each time ("Kademlia", section 2.3, refreshes them all at once).
        """
        state = self._state
        buckets = state.table.span(now)
        filling = [(i, b) for i, b in buckets if b.size_then < len(b.live) < state.tuning.k]
        if filling:
            self._refresh(*filling[-1], now)
        elif buckets:
            index, bucket = min(buckets, key=lambda each: each[1].touched_at)
            idle_s = now - bucket.touched_at
            if idle_s >= state.tuning.refresh_s * (0.9 + state.random.random() / 5):
                self._refresh(index, bucket, now)

    def _refresh(self, index: int, bucket: Bucket, now: float) -> None:
        """Find nodes for a bucket, and ping those for which it has room."""
        state = self._state
        bucket.touched_at = now
        bucket.size_then = len(bucket.live)

        def ended(walk: Walk, now: float) -> None:
            near = [c for c in walk.lookup.named() if (c.id ^ state.id).bit_length() - 1 == index]
            new = [contact for contact in near if state.table.would_take(contact)]
            room = min(AT_ONCE, state.tuning.k - len(bucket.live))
            for contact in new[: max(0, room)]:
                self._rpc.ping(contact, now)

        target = state.id ^ pow(2, index) ^ state.random.getrandbits(index)
        state.counts["refreshes"] += 1
        self._finding.find_nodes(target, now, ended, k=state.tuning.alpha)
