"""How much each node sent and got, until that was told.

A node's bytes are told once they are many, and when there is a pause or an end. What came from
peers is told only as far as pieces were verified. Of a node that sent corrupt pieces, nothing more
is told: which of its blocks were right is not known, and those that were wrong would take the place
of what others sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aitorrent_seeding.session.links import Link
from aitorrentd.api import PeerId

EVERY_BYTES: Final = 256 * 2**20
"A long transfer is told in parts of this size, or more."
PAUSE_S: Final = 10.0
"Without a byte, before the rest is told."
FROM: Final = "from"
TO: Final = "to"


@dataclass(slots=True)
class _Account:
    waiting: int
    first_at: float
    last_at: float


@dataclass(frozen=True, slots=True)
class Credit:
    """Bytes to be told."""

    node: PeerId
    direction: str
    size_bytes: int
    duration_s: float


class Accounts:
    """Of one torrent; callers pass `now`, in seconds."""

    def __init__(self, *, every_bytes: int = EVERY_BYTES) -> None:
        self._every_bytes = every_bytes
        self._open: dict[tuple[PeerId, str], _Account] = {}
        self._told_received = 0
        self._barred: set[PeerId] = set()

    def bar(self, node: PeerId) -> None:
        """Credit a node with nothing that came from it, from now on."""
        self._barred.add(node)
        self._open.pop((node, FROM), None)

    def __len__(self) -> int:
        """How many have bytes that were not told."""
        return sum(account.waiting > 0 for account in self._open.values())

    def add(self, links: Iterable[Link], now: float) -> None:
        """Count what went through links since the last call; nobody's account has those whose node
        is not proven."""
        for link in links:
            if link.node is None:
                continue
            for direction, total in ((FROM, link.received - link.failed), (TO, link.sent)):
                more = total - link.counted.get(direction, 0)
                if more > 0 and not (direction == FROM and link.node in self._barred):
                    begun = now if direction in link.counted else link.since
                    link.counted[direction] = total
                    key = link.node, direction
                    account = self._open.setdefault(key, _Account(0, begun, now))
                    account.waiting += more
                    account.last_at = now

    def due(self, *, verified: int, is_whole: bool, is_over: bool, now: float) -> Iterator[Credit]:
        """What is to be told now.

        `verified` are the bytes that were received and verified so far. If all were (`is_whole`),
        no more will be; with `is_over`, none will be sent either.
        """
        for (node, direction), account in list(self._open.items()):
            is_last = is_over or (is_whole and direction == FROM)
            is_quiet = now - account.last_at >= PAUSE_S
            if not (is_last or is_quiet or account.waiting >= self._every_bytes):
                continue
            told = account.waiting
            if direction == FROM:
                told = min(told, max(0, verified - self._told_received))
                self._told_received += told
            if told:
                yield Credit(node, direction, told, max(0.0, account.last_at - account.first_at))
            account.waiting -= told
            account.first_at = account.last_at
            if is_last or (is_quiet and not account.waiting):
                del self._open[node, direction]
