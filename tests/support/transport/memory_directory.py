"""A directory in memory: nodes that share `records` see what the others publish at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aitorrentd.api import PeerId, Record


class MemoryDirectory:
    """One node's view."""

    def __init__(self, me: PeerId, records: dict[tuple[str, PeerId], Record]) -> None:
        self.me = me
        self.records = records
        self.elsewhere: list[Record] = []
        "Records that only `find` returns."

    def publish(self, key: str, value: Mapping[str, Any]) -> None:
        self.records[key, self.me] = Record(key, self.me, dict(value))

    def withdraw(self, key: str) -> None:
        self.records.pop((key, self.me), None)

    def known(self, prefix: str) -> Sequence[Record]:
        return [r for r in self.records.values() if r.key.startswith(prefix)]

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        both = [*self.records.values(), *self.elsewhere]
        return [r for r in both if r.key == key]
