"""Which info-hashes the catalogue makes the tracker serve. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from aitorrent_tracker.answering.access import Access
from aitorrent_tracker.catalogue.sql.entries import APPROVED, Entry


class Listing:
    """Follows the changes of entries. Several entries may have one torrent: the same file in two
    revisions."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._of: dict[int, tuple[bytes, ...]] = {}
        "Info-hashes of approved entries, by the entry's id."
        self._uses: Counter[bytes] = Counter()

    def __len__(self) -> int:
        """Approved entries."""
        return len(self._of)

    def follow(self, entries: Iterable[Entry]) -> None:
        """Take entries as they are now."""
        for entry in entries:
            before = self._of.pop(entry.id, ())
            now = entry.info_hashes if entry.state == APPROVED else ()
            if now:
                self._of[entry.id] = now
            self._uses.update(now)
            self._uses.subtract(before)
            self._access.publish(now)
            gone = [info_hash for info_hash in before if self._uses[info_hash] <= 0]
            for info_hash in gone:
                del self._uses[info_hash]
            self._access.withdraw(gone)
