"""Layers on their way: what nodes say while they read a model, so that others can wait for it.

A record `ait:loading:<model>` is there while a node reads the files of a model, while its worker
loads layers, and while it waits for layers that others load to answer with. Records come from
strangers: `parse_loading` believes only their form, and `claims` only those that change. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_shards.protocol.messages import MAX_LAYERS
from aitorrentd.api import PeerId, ProtocolError, Record
from aitorrentd.api.fields import whole

PREFIX: Final = "ait:loading:"
VERSION: Final = 1
MAX_NAME_CHARS: Final = 128
_MAX_BYTES: Final = 2**53
_STEP: Final = 0.01
"A record follows when so much more of the whole was read."


@dataclass(frozen=True, slots=True)
class Loading:
    """A node that is about to have the layers [start, end) of a model.

    The range is empty for a node that only reads the files, or that waits for the layers of others.
    """

    peer: PeerId
    model: str
    start: int
    end: int
    done_bytes: int = 0
    "What was read so far."
    total_bytes: int = 0
    "What is to be read; 0 while that is not known."

    def value(self) -> dict[str, Any]:
        """What its node says in the directory."""
        return {
            "v": VERSION,
            "start": self.start,
            "end": self.end,
            "done": self.done_bytes,
            "total": self.total_bytes,
        }

    def is_news(self, said: Loading | None) -> bool:
        """Whether it should be said after `said`."""
        if said is None or (said.start, said.end, said.total_bytes) != (
            self.start,
            self.end,
            self.total_bytes,
        ):
            return True
        return abs(self.done_bytes - said.done_bytes) >= _STEP * max(self.total_bytes, 1)


def parse_loading(record: Record) -> Loading | None:
    """What a record says, or None when it is not such a record."""
    model = record.key.removeprefix(PREFIX)
    value = record.value
    if not 1 <= len(model) <= MAX_NAME_CHARS or not model.isprintable():
        return None
    try:
        start, end = whole(value, "start", 0, MAX_LAYERS), whole(value, "end", 0, MAX_LAYERS)
        total = whole(value, "total", 0, _MAX_BYTES)
        done = min(whole(value, "done", 0, _MAX_BYTES), total)
        if value.get("v") != VERSION or start > end:
            return None
    except ProtocolError:
        return None
    return Loading(record.peer, model, start, end, done, total)


def parse_all(records: Iterable[Record]) -> list[Loading]:
    """What the records say that are such."""
    found = (parse_loading(record) for record in records)
    return [loading for loading in found if loading is not None]
