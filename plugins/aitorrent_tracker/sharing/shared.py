"""Storage that shares its swarms: answers from memory, remembers what changed; no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aitorrent_tracker.sharing.changes import Batch, Change, Kind, Message, Value
from aitorrent_tracker.swarms.memory import MemoryStorage
from aitorrent_tracker.swarms.storage import Announce, Counts, Event, Found, Statistics

MAX_PENDING: Final = 200_000
"Changes that wait for Redis. Beyond that all are forgotten: whoever is still there is told again."
MAX_IN_BATCH: Final = 500


class SharedStorage:
    """Swarms of several processes, each of which has them all.

    `offset_s` is Unix time by the clock of Redis, less monotonic time.
    """

    def __init__(self, memory: MemoryStorage, offset_s: float) -> None:
        self.memory = memory
        self.offset_s = offset_s
        self._pending: dict[bytes, dict[bytes, Change]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def announce(self, announce: Announce, now: float) -> Found:
        """See `Storage.announce`."""
        info_hash = announce.info_hash
        entry = announce.host + announce.port.to_bytes(2, "big")
        before = -1
        if announce.event is Event.COMPLETED:
            before = self.memory.counts(info_hash).completed
        found = self.memory.announce(announce, now)
        value = Value(announce.is_seed, int(now + self.offset_s), announce.peer_id)
        if announce.event is Event.STOPPED:
            self._add(info_hash, entry, Change(Kind.GONE, value))
        elif self.memory.peer_id(info_hash, entry):
            is_counted = 0 <= before < found.completed
            kind = Kind.SEEN | Kind.COMPLETED if is_counted else Kind.SEEN
            self._add(info_hash, entry, Change(kind, value))
        return found

    def counts(self, info_hash: bytes) -> Counts:
        """See `Storage.counts`."""
        return self.memory.counts(info_hash)

    def peers(self, info_hash: bytes) -> Iterator[tuple[bytes, bytes, bool, float]]:
        """See `Storage.peers`."""
        return self.memory.peers(info_hash)

    def peer_id(self, info_hash: bytes, entry: bytes) -> bytes:
        """See `Storage.peer_id`."""
        return self.memory.peer_id(info_hash, entry)

    def statistics(self) -> Statistics:
        """See `Storage.statistics`."""
        return self.memory.statistics()

    def expire(self, now: float) -> list[tuple[bytes, bytes]]:
        """See `Storage.expire`."""
        expired = self.memory.expire(now)
        # Every process does this, so that it is done when the one that heard the peer has died. A
        # peer that another heard since is newer in Redis, and stays.
        seen = int(now + self.offset_s - self.memory.ttl_s)
        for info_hash, entry in expired:
            self._add(info_hash, entry, Change(Kind.GONE, Value(False, seen, bytes(20))))
        return expired

    def _add(self, info_hash: bytes, entry: bytes, change: Change) -> None:
        if self._count >= MAX_PENDING:
            self._pending.clear()
            self._count = 0
        swarm = self._pending.setdefault(info_hash, {})
        before = swarm.get(entry)
        if before is None:
            self._count += 1
        elif before.kind & Kind.COMPLETED:
            change = change._replace(kind=change.kind | Kind.COMPLETED)
        swarm[entry] = change

    def take(self) -> Iterator[Batch]:
        """What changed since, taken as it is yielded."""
        while self._pending:
            info_hash, changes = next(iter(self._pending.items()))
            own = sum(bool(change.kind & Kind.COMPLETED) for change in changes.values())
            least = max(0, self.memory.counts(info_hash).completed - own)
            if len(changes) <= MAX_IN_BATCH:
                del self._pending[info_hash]
                batch = Batch(info_hash, changes, least)
            else:
                some = dict(changes.popitem() for _ in range(MAX_IN_BATCH))
                batch = Batch(info_hash, some, least)
            self._count -= len(batch.changes)
            yield batch

    def give_back(self, batch: Batch) -> None:
        """Take a batch again that could not be exchanged; what happened since prevails."""
        since = self._pending.get(batch.info_hash, {})
        for entry, change in batch.changes.items():
            newer = since.get(entry)
            if newer is None:
                self._add(batch.info_hash, entry, change)
            elif change.kind & Kind.COMPLETED:
                since[entry] = newer._replace(kind=newer.kind | Kind.COMPLETED)

    def everything(self) -> Iterator[Batch]:
        """All that is known, for a Redis that may have lost it."""
        for info_hash in self.memory.info_hashes():
            least = self.memory.counts(info_hash).completed
            batches = [Batch(info_hash, {}, least)]
            for entry, peer_id, is_seed, seen in self.memory.peers(info_hash):
                if len(batches[-1].changes) >= MAX_IN_BATCH:
                    batches.append(Batch(info_hash))
                value = Value(is_seed, int(seen + self.offset_s), peer_id)
                batches[-1].changes[entry] = Change(Kind.SEEN, value)
            yield from batches  # of one moment: peers may announce themselves before the next

    def hear(self, message: Message, now: float) -> None:
        """Note what another process published."""
        for entry, change in message.changes:
            self.learn(message.info_hash, entry, change, now)
        self.memory.set_completed(message.info_hash, message.completed)

    def learn(self, info_hash: bytes, entry: bytes, change: Change, now: float) -> None:
        """Note what happened to a peer at another process."""
        # Fractions of a second were cut off: who left is not to seem to have left before it came.
        seen = min(change.value.seen + 1 - self.offset_s, now)
        if change.kind & Kind.GONE:
            self.memory.forget(info_hash, entry, seen)
        else:
            value = change.value
            self.memory.learn(info_hash, entry, value.peer_id, value.is_seed, seen, now)
