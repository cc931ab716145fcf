"""Peers of one swarm, as compact arrays.

Entries have the format of compact replies (BEP 23, BEP 7), so that a reply is a slice: some peers
in a row from a random one on. Removal moves the last entry into the gap.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from aitorrent_tracker.swarms.storage import HASH_BYTES

PEER_ID_BYTES: Final = HASH_BYTES
ABSENT: Final = -1
"The place of a peer that is not here."


class Peers:
    """Peers with addresses of one size, either seeds or leechers."""

    __slots__ = ("_entries", "_ids", "_index", "_ring", "_seen", "_width", "count")

    def __init__(self, width: int) -> None:
        self.count = 0
        self._width = width
        self._entries = bytearray()
        self._ring = b""
        """The entries twice, so that some in a row, from any one on, are a slice. Made again after
        peers came or went: they come back more often."""
        self._ids = bytearray()
        self._seen = array("I")
        "The tick of each peer's last announce."
        self._index: dict[bytes, int] = {}

    def __len__(self) -> int:
        return self.count

    def __contains__(self, entry: bytes) -> bool:
        return entry in self._index

    def touch(self, entry: bytes, peer_id: bytes, tick: int) -> int:
        """Note that a peer announced itself again; its place, or `ABSENT`."""
        at = self._index.get(entry)
        if at is None:
            return ABSENT
        self._seen[at] = tick
        begin = at * PEER_ID_BYTES
        self._ids[begin : begin + PEER_ID_BYTES] = peer_id
        return at

    def add(self, entry: bytes, peer_id: bytes, tick: int) -> int:
        """Add a peer that is not here; its place."""
        at = self._index[entry] = self.count
        self._ring = b""
        self._entries += entry
        self._ids += peer_id
        self._seen.append(tick)
        self.count += 1
        return at

    def drop(self, entry: bytes) -> bool:
        """Remove a peer; whether it was there."""
        at = self._index.pop(entry, None)
        if at is None:
            return False
        self._ring = b""
        width, ids, entries = self._width, self._ids, self._entries
        seen = self._seen.pop()
        self.count -= 1
        if at < self.count:
            last = bytes(entries[-width:])
            entries[at * width : (at + 1) * width] = last
            ids[at * PEER_ID_BYTES : (at + 1) * PEER_ID_BYTES] = ids[-PEER_ID_BYTES:]
            self._seen[at] = seen
            self._index[last] = at
        del entries[-width:], ids[-PEER_ID_BYTES:]
        return True

    def id_of(self, entry: bytes) -> bytes:
        """The peer's id, or nothing."""
        at = self._index.get(entry)
        return b"" if at is None else bytes(self._ids[at * PEER_ID_BYTES :][:PEER_ID_BYTES])

    def sample(self, wanted: int, draw: float) -> bytes:
        """At most `wanted` entries from a random one on; `draw` in [0, 1) chooses it."""
        count, width, ring = self.count, self._width, self._ring or self._make_ring()
        if wanted >= count:
            return ring[: count * width]
        begin = int(draw * count) * width
        return ring[begin : begin + wanted * width]

    def sample_others(self, wanted: int, draw: float, own: int) -> bytes:
        """The same without the entry at the place `own`."""
        count, width, ring = self.count, self._width, self._ring or self._make_ring()
        if wanted >= count - 1:
            return ring[(own + 1) * width : (own + count) * width]
        first = int(draw * count)
        begin, at = first * width, own - first
        if at < 0:
            at += count
        if at >= wanted:
            return ring[begin : begin + wanted * width]
        cut = begin + at * width
        return ring[begin:cut] + ring[cut + width : begin + (wanted + 1) * width]

    def _make_ring(self) -> bytes:
        ring = self._ring = bytes(self._entries) * 2
        return ring

    def count_prefix(self, prefix: bytes, enough: int) -> int:
        """How many peers have an address that starts with these bytes; counts up to `enough`."""
        found, at = 0, self._entries.find(prefix)
        while at >= 0 and found < enough:
            found += at % self._width == 0  # other matches are across entries
            at = self._entries.find(prefix, at + 1)
        return found

    def oldest(self) -> int | None:
        """The tick of the announce that is longest ago; None without peers."""
        return min(self._seen, default=None)

    def expire(self, tick: int) -> list[bytes]:
        """Remove peers whose last announce was before `tick`; returns their entries."""
        width, entries = self._width, self._entries
        old = [
            bytes(entries[at * width : (at + 1) * width])
            for at, seen in enumerate(self._seen)
            if seen < tick
        ]
        for entry in old:
            self.drop(entry)
        return old

    def seen(self, entry: bytes) -> int | None:
        """The tick of a peer's last announce; None if it is not here."""
        at = self._index.get(entry)
        return None if at is None else self._seen[at]

    def __iter__(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Entries, ids and ticks."""
        for entry, at in self._index.items():
            yield entry, self.id_of(entry), self._seen[at]
