"""The routing table: which verified nodes are near which ids.

Follows "Kademlia" (2002), sections 2.2 and 4.1: 160 buckets of k nodes, least recently seen first,
and a cache of replacements. A full bucket keeps its live nodes, since old nodes stay longer than
new ones, and nobody can flush a table by appearing. Only nodes whose signed answer arrived from
their address may be added. No I/O and no clock: callers pass `now`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from aitorrent_dht.core.contact import ID_BITS, ID_SPACE, Contact, subnet_of
from aitorrent_dht.core.timing import RoundTrip

K: Final = 20
PER_BUCKET: Final = 2
"Nodes of one subnet in a bucket."
PER_TABLE: Final = 10
"Nodes of one subnet in the table."
MAX_FAILS: Final = 2
"Failures in a row before a node is dropped even without a replacement."
FRESH_S: Final = 300.0
"A node that answered this recently is not pinged when another one wants its place."
SETTLED_S: Final = 60.0
"A node that answered this recently is not moved to another address."


class Entry:
    """A node of the table."""

    __slots__ = ("added_at", "contact", "fails", "round_trip", "seen_at", "token")

    def __init__(self, contact: Contact, now: float) -> None:
        self.contact = contact
        self.added_at = now
        self.seen_at = now
        self.fails = 0
        "Requests in a row that it did not answer."
        self.round_trip = RoundTrip()
        self.token = b""
        "What it gave this node as proof of its address."


class Bucket:
    """Nodes whose distance has the same highest bit, least recently seen first."""

    __slots__ = ("live", "size_then", "spare", "touched_at")

    def __init__(self, now: float) -> None:
        self.live: OrderedDict[int, Entry] = OrderedDict()
        self.spare: OrderedDict[int, Entry] = OrderedDict()
        "Verified nodes for which there is no room, newest last."
        self.size_then = -1
        "How many nodes it had when it was refreshed last: if it grew, there may be more."
        self.touched_at = now
        "When a lookup last went through it."


class RoutingTable:
    """Verified nodes by distance from `own_id`; `k` per bucket."""

    def __init__(self, own_id: int, k: int = K) -> None:
        self.own_id = own_id
        self.k = k
        self._buckets: dict[int, Bucket] = {}
        self._subnets: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for bucket in list(self._buckets.values()):
            yield from list(bucket.live.values())

    def get(self, node: int) -> Entry | None:
        """The entry of a node, or None if it is not in the table (or only a replacement)."""
        bucket = self._buckets.get((node ^ self.own_id).bit_length() - 1)
        return bucket.live.get(node) if bucket is not None else None

    def buckets(self) -> Iterator[tuple[int, Bucket]]:
        """Buckets that hold nodes, by the highest bit of the distance."""
        yield from ((i, b) for i, b in sorted(self._buckets.items()) if b.live)

    def span(self, now: float) -> list[tuple[int, Bucket]]:
        """All buckets from the nearest one that holds nodes to the farthest, empty ones too."""
        used = [index for index, bucket in self._buckets.items() if bucket.live]
        for index in range(min(used, default=ID_BITS), ID_BITS):
            if index not in self._buckets:
                self._buckets[index] = Bucket(now)
        return [(i, b) for i, b in sorted(self._buckets.items()) if used and i >= min(used)]

    # Changing

    def would_take(self, contact: Contact) -> bool:
        """Whether the table wants this node and does not have it yet."""
        index = (contact.id ^ self.own_id).bit_length() - 1
        if index < 0:
            return False
        bucket = self._buckets.get(index)
        if bucket is None:
            return self._has_room(contact, {})
        if contact.id in bucket.live or contact.id in bucket.spare:
            return False
        return self._has_room(contact, bucket.live) or len(bucket.spare) < self.k

    def seen(self, contact: Contact, now: float) -> Contact | None:
        """Note that `contact` gave a signed answer from its address.

        Returns the node to ping when the bucket is full and its oldest node was silent for a
        while: if that one does not answer, the new one takes its place (`failed`).
        """
        index = (contact.id ^ self.own_id).bit_length() - 1
        if index < 0:
            return None
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = Bucket(now)
        entry = bucket.live.get(contact.id)
        if entry is not None:
            self._renew(bucket, entry, contact, now)
            return None
        if self._has_room(contact, bucket.live) and len(bucket.live) < self.k:
            bucket.spare.pop(contact.id, None)
            self._add(bucket, Entry(contact, now), contact)
            return None
        bucket.spare.pop(contact.id, None)
        spare = Entry(contact, now)
        bucket.spare[contact.id] = spare
        if len(bucket.spare) > self.k:
            bucket.spare.popitem(last=False)
        if len(bucket.live) < self.k:
            return None  # its subnet has enough nodes
        oldest = next(iter(bucket.live.values()))
        return oldest.contact if now - oldest.seen_at > FRESH_S else None

    def _renew(self, bucket: Bucket, entry: Entry, contact: Contact, now: float) -> None:
        if entry.contact.key != contact.key:
            return  # two keys with one id: the first stays
        old = entry.contact
        if (old.host, old.port) != (contact.host, contact.port):
            if now - entry.seen_at < SETTLED_S and not entry.fails:
                return
            self._subnets.subtract((subnet_of(old.host),))
            self._subnets.update((subnet_of(contact.host),))
            entry.contact, entry.token = contact, b""
        entry.seen_at, entry.fails = now, 0
        bucket.live.move_to_end(contact.id)

    def _add(self, bucket: Bucket, entry: Entry, contact: Contact) -> None:
        entry.contact, entry.fails = contact, 0
        bucket.live[contact.id] = entry
        self._count += 1
        self._subnets.update((subnet_of(contact.host),))

    def _has_room(self, contact: Contact, live: dict[int, Entry]) -> bool:
        if len(live) >= self.k:
            return False
        subnet = subnet_of(contact.host)
        if not subnet or not self._subnets[subnet]:
            return True
        if self._subnets[subnet] >= PER_TABLE:
            return False
        return sum(subnet_of(e.contact.host) == subnet for e in live.values()) < PER_BUCKET

    def failed(self, contact: Contact) -> bool:
        """Note that a node did not answer; whether it was dropped."""
        bucket = self._buckets.get((contact.id ^ self.own_id).bit_length() - 1)
        entry = bucket.live.get(contact.id) if bucket is not None else None
        if bucket is None or entry is None or entry.contact != contact:
            return False
        entry.fails += 1
        if entry.fails < MAX_FAILS and not bucket.spare:
            return False
        self._drop(bucket, entry)
        return True

    def _drop(self, bucket: Bucket, entry: Entry) -> None:
        contact = entry.contact
        del bucket.live[contact.id]
        self._count -= 1
        self._subnets.subtract((subnet_of(contact.host),))
        for spare in reversed(list(bucket.spare.values())):
            if self._has_room(spare.contact, bucket.live):
                del bucket.spare[spare.contact.id]
                self._add(bucket, spare, spare.contact)
                break

    def touch(self, target: int, now: float) -> None:
        """Note that a lookup for `target` goes through its bucket."""
        bucket = self._buckets.get((target ^ self.own_id).bit_length() - 1)
        if bucket is not None:
            bucket.touched_at = now

    # Asking

    def closest(
        self, target: int, count: int, wanted: Callable[[Contact], bool] = lambda _: True
    ) -> list[Contact]:
        """At most `count` wanted nodes nearest to `target`, nearest first."""
        return list(islice(filter(wanted, self.nearest(target)), count))

    def nearest(self, target: int, *, answering: bool = False) -> Iterator[Contact]:
        """The nodes by their distance to `target`, nearest first; only `answering` leaves out those
        that did not answer the last request.

        Buckets are nearer as a whole or farther as a whole: the ids of bucket i differ from the own
        id in bit i. If the target does, too, they are nearer to it than all below, else farther.
        """
        distance = target ^ self.own_id
        shared: list[int] = []
        others: list[int] = []
        for i, bucket in self._buckets.items():
            if bucket.live:
                (shared if distance >> i & 1 else others).append(i)
        shared.sort(reverse=True)
        others.sort()
        for i in shared + others:
            inside = [(node ^ target, entry) for node, entry in self._buckets[i].live.items()]
            inside.sort()
            for _, entry in inside:
                if not (answering and entry.fails):
                    yield entry.contact

    def network_size(self) -> float:
        """The number of nodes, as far as the density of ids around this node's own tells it."""
        near = self.closest(self.own_id, self.k)
        if len(near) < self.k:
            return float(len(near) + 1)
        return self.k * ID_SPACE / (near[-1].id ^ self.own_id)
