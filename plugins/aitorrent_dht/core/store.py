"""The records that this node keeps for others, within limits that no publisher can exceed.

Every record is checked and verified before it gets here. A full store gives up the record farthest
from this node's id, which other nodes keep too. No I/O and no clock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import Final

from aitorrent_dht.core.contact import subnet_of
from aitorrent_dht.core.record import DhtRecord, Kind

MAX_RECORDS: Final = 100_000
MAX_BYTES: Final = 64 * 1024 * 1024
PER_KEY: Final = 64
"Providers of one key."
PER_SUBNET_AND_KEY: Final = 8
"Providers of one key that were stored from one subnet: nobody can fill a key alone."
PER_PUBLISHER: Final = 256
OVERHEAD_BYTES: Final = 600
"What a record costs in memory beside its value."


class Outcome(Enum):
    """What became of a record."""

    STORED = "stored"
    KNOWN = "known"
    "It is here already."
    STALE = "stale"
    "A record with this number or a higher one is here."
    FULL = "full"
    "A limit is reached."


@dataclass(slots=True)
class _Kept:
    record: DhtRecord
    until: float
    "When to forget it: seconds since the epoch."
    subnet: str


class RecordStore:
    """Records by key and publisher, nearest to `own_id` first when there is no room for all."""

    def __init__(
        self, own_id: int, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES
    ) -> None:
        self.own_id = own_id
        self.size_bytes = 0
        "An estimate of what the records take in memory."
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._keys: dict[bytes, dict[bytes, _Kept]] = {}
        self._by_distance: list[tuple[int, bytes]] = []
        self._publishers: Counter[bytes] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, record: DhtRecord, host: str, *, until: float, epoch_s: float) -> Outcome:
        """Keep `record`, which a node at `host` sent, until `until` (seconds since the epoch)."""
        entries = self._keys.get(record.key, {})
        held = entries.get(record.publisher)
        if held is not None and held.until <= epoch_s:
            self._remove(held.record)
            entries, held = self._keys.get(record.key, {}), None
        if held is not None:
            if held.record.signature == record.signature:
                held.until = max(held.until, until)
                return Outcome.KNOWN
            if record.seq <= held.record.seq:
                return Outcome.STALE
            self._remove(held.record)
        elif not self._may_add(record, host, entries, epoch_s):
            return Outcome.FULL
        self._add(_Kept(record, until, subnet_of(host)))
        while self._count > self._max_records or self.size_bytes > self._max_bytes:
            farthest = self._by_distance[-1][1]
            for kept in list(self._keys[farthest].values()):
                self._remove(kept.record)
            if farthest == record.key:
                return Outcome.FULL
        return Outcome.STORED

    def _may_add(
        self, record: DhtRecord, host: str, entries: dict[bytes, _Kept], epoch_s: float
    ) -> bool:
        if self._publishers[record.publisher] >= PER_PUBLISHER:
            return False
        if record.kind is Kind.VALUE:
            return True
        if len(entries) >= PER_KEY:
            for kept in [k for k in entries.values() if k.until <= epoch_s]:
                self._remove(kept.record)
            entries = self._keys.get(record.key, {})
        subnet = subnet_of(host)
        alike = sum(k.subnet == subnet for k in entries.values()) if subnet else 0
        return len(entries) < PER_KEY and alike < PER_SUBNET_AND_KEY

    def _add(self, kept: _Kept) -> None:
        record = kept.record
        if record.key not in self._keys:
            self._keys[record.key] = {}
            insort(self._by_distance, (record.target ^ self.own_id, record.key))
        self._keys[record.key][record.publisher] = kept
        self._publishers[record.publisher] += 1
        self._count += 1
        self.size_bytes += len(record.value) + OVERHEAD_BYTES

    def _remove(self, record: DhtRecord) -> None:
        entries = self._keys[record.key]
        del entries[record.publisher]
        if not entries:
            del self._keys[record.key]
            place = bisect_left(self._by_distance, (record.target ^ self.own_id, record.key))
            del self._by_distance[place]
        left = self._publishers[record.publisher] - 1
        self._publishers[record.publisher] = left
        if not left:
            del self._publishers[record.publisher]
        self._count -= 1
        self.size_bytes -= len(record.value) + OVERHEAD_BYTES

    def get(self, key: bytes, epoch_s: float) -> list[DhtRecord]:
        """The records under `key` that have not ended, deletions included."""
        entries = self._keys.get(key, {})
        return [k.record for k in entries.values() if k.until > epoch_s]

    def held(self, record: DhtRecord) -> DhtRecord | None:
        """The record here in the place of `record`."""
        kept = self._keys.get(record.key, {}).get(record.publisher)
        return kept.record if kept is not None else None

    def expire(self, epoch_s: float) -> int:
        """Forget what has ended; returns how many."""
        ended = [
            kept.record
            for entries in self._keys.values()
            for kept in entries.values()
            if kept.until <= epoch_s
        ]
        for record in ended:
            self._remove(record)
        return len(ended)
