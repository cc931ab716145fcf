"""This node's own records: numbered, signed, put, and put again until they are withdrawn.

Records are put again region by region: in the order of their keys, each search starting at the
nodes that the last one found, so that many records cost little more than the nodes that keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from aitorrent_dht.core.contact import Contact
from aitorrent_dht.core.finding import Finding, Stored
from aitorrent_dht.core.record import DhtRecord, Kind
from aitorrent_dht.core.state import NodeState
from aitorrentd.api.backoff import equal_jitter_s

AT_ONCE: Final = 4
"Records that are put at the same time."
RETRY_S: Final = 5.0
MAX_RETRY_S: Final = 600.0

Sign = Callable[[DhtRecord], bytes]
OnStored = Callable[[Stored], None]


@dataclass(slots=True)
class _Own:
    record: DhtRecord
    due: float
    attempt: int = 0
    stored: int = 0
    "Nodes that kept it, the last time."
    is_running: bool = False
    on_stored: OnStored | None = None


class Publishing:
    """The records that this node publishes."""

    def __init__(self, state: NodeState, finding: Finding, sign: Sign) -> None:
        self._state = state
        self._finding = finding
        self._sign = sign
        self._own: dict[bytes, _Own] = {}
        self._running = 0
        self._near: list[Contact] = []
        "Nodes that the last search found."

    def __len__(self) -> int:
        return sum(not own.record.is_deleted for own in self._own.values())

    def records(self) -> list[DhtRecord]:
        """This node's records, deletions included."""
        return [own.record for own in self._own.values()]

    def stored(self, key: bytes) -> int:
        """How many nodes kept this node's record under `key` when it was last put."""
        own = self._own.get(key)
        return own.stored if own is not None else 0

    def put(
        self,
        kind: Kind,
        key: bytes,
        value: bytes,
        now: float,
        *,
        name: bytes = b"",
        is_deleted: bool = False,
        on_stored: OnStored | None = None,
    ) -> DhtRecord:
        """Publish `value` under `key` until it is withdrawn; replaces this node's earlier one."""
        own = self._own.get(key)
        # Later than every earlier run's, as long as the clock does not go back.
        seq = max(int(self._state.epoch_s(now) * 1000), own.record.seq + 1 if own else 0)
        record = DhtRecord(
            kind, key, self._state.key, seq, 0, value, name=name, is_deleted=is_deleted
        )
        record = self._signed(record, now)
        self._own[key] = _Own(record, now, on_stored=on_stored)
        self.run(now)
        return record

    def withdraw(self, key: bytes, now: float, *, on_stored: OnStored | None = None) -> bool:
        """Delete this node's record under `key`; False if it has none."""
        own = self._own.get(key)
        if own is None or own.record.is_deleted:
            return False
        old = own.record
        self.put(old.kind, key, b"", now, name=old.name, is_deleted=True, on_stored=on_stored)
        return True

    def restore(self, record: DhtRecord, now: float) -> None:
        """Go on publishing a record of an earlier run."""
        self._own.setdefault(record.key, _Own(record, now))

    def refresh(self, now: float) -> None:
        """Put every record again soon: the neighbourhood changed."""
        for own in self._own.values():
            own.due = min(own.due, now)

    def run(self, now: float) -> None:
        """Put what is due, neighbours in the id space one after the other."""
        if not len(self._state.table):
            return
        due = [own for own in self._own.values() if own.due <= now and not own.is_running]
        for own in sorted(due, key=lambda own: own.record.key):
            if self._running >= AT_ONCE:
                return
            self._start(own, now)

    def next_due(self) -> float | None:
        """When the next record is to be put."""
        return min((own.due for own in self._own.values() if not own.is_running), default=None)

    def _start(self, own: _Own, now: float) -> None:
        own.is_running = True
        self._running += 1
        half_life_s = self._state.tuning.ttl_s / 2
        if own.record.expires - self._state.epoch_s(now) < half_life_s:
            own.record = self._signed(replace(own.record, seq=own.record.seq + 1), now)

        def ended(stored: Stored, now: float) -> None:
            own.is_running = False
            self._running -= 1
            self._near = stored.closest or self._near
            self._ended(own, stored, now)
            self.run(now)

        self._finding.put(own.record, now, ended, seeds=self._near)

    def _ended(self, own: _Own, stored: Stored, now: float) -> None:
        state = self._state
        own.stored = stored.count
        draw = state.random.random()
        if stored.newer is not None and self._own.get(own.record.key) is own:
            # A copy of this node, or an earlier run with a clock that was ahead, counted further.
            own.record = self._signed(replace(own.record, seq=stored.newer.seq + 1), now)
            own.due = now
            if own.attempt < 3:
                own.attempt += 1
                return
        if not stored.count:
            own.attempt += 1
            wait_s = equal_jitter_s(own.attempt, base_s=RETRY_S, cap_s=MAX_RETRY_S, draw=draw)
            own.due = now + wait_s
            return
        own.attempt = 0
        own.due = now + state.tuning.republish_s * (0.9 + 0.2 * draw)
        if own.on_stored is not None:
            own.on_stored(stored)
            own.on_stored = None
        is_current = self._own.get(own.record.key) is own
        if own.record.is_deleted and is_current and stored.count:
            del self._own[own.record.key]

    def _signed(self, record: DhtRecord, now: float) -> DhtRecord:
        expires = int(self._state.epoch_s(now) + self._state.tuning.ttl_s)
        record = replace(record, expires=expires, signature=b"")
        return replace(record, signature=self._sign(record))
