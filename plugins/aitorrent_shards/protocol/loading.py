"""Loading records: what nodes publish while they load a model, so that others can wait for it.

A node publishes a record `ait:loading:<model>` while it reads the files of a model, while its
worker loads layers, and while it waits for other nodes to load the layers it needs to answer.
Records are untrusted: `parse_loading` checks only their form, and `claims` believes only those that
make progress. No I/O.
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
"Publish again after this share of the total was read."


@dataclass(frozen=True, slots=True)
class Loading:
    """A node that is about to hold the layers [start, end) of a model.

    The range is empty for a node that only reads the files, or that waits for other nodes' layers.
    """

    peer: PeerId
    model: str
    start: int
    end: int
    done_bytes: int = 0
    "Bytes read so far."
    total_bytes: int = 0
    "Bytes to read in total; 0 while unknown."

    def value(self) -> dict[str, Any]:
        """The value that its node publishes in the directory."""
        return {
            "v": VERSION,
            "start": self.start,
            "end": self.end,
            "done": self.done_bytes,
            "total": self.total_bytes,
        }

    def is_news(self, said: Loading | None) -> bool:
        """Whether to publish it, given that `said` was published last."""
        if said is None or (said.start, said.end, said.total_bytes) != (
            self.start,
            self.end,
            self.total_bytes,
        ):
            return True
        return abs(self.done_bytes - said.done_bytes) >= _STEP * max(self.total_bytes, 1)


def parse_loading(record: Record) -> Loading | None:
    """The parsed record, or None if it is invalid."""
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
    """The valid ones of these records, parsed."""
    found = (parse_loading(record) for record in records)
    return [loading for loading in found if loading is not None]
