"""The frames of an exchange. No I/O.

→  hello   {v, at, salt, filter}            what the dialling side has
←  hello   {v, at, salt, filter}            what the other side has
←  items   {hops: [...], sizes: [...]}      records that the dialling side lacks, one after the
                                            other in the tail
→  items   {hops: [...], sizes: [...]}      records that the other side lacks
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_discovery.gossip.book import MAX_HOPS, Item
from aitorrent_discovery.records.bloom import MAX_BYTES, SALT_BYTES, Bloom
from aitorrent_discovery.records.codec import MAX_RECORD_BYTES
from aitorrentd.api import Frame, ProtocolError, encode_frame
from aitorrentd.api.fields import MAX_EXACT, blob, whole

PROTOCOL: Final = "/ai-torrent/1/gossip"
VERSION: Final = 1
MAX_ITEMS: Final = 32
MAX_HELLO_BYTES: Final = MAX_BYTES + 256
MAX_ITEMS_BYTES: Final = MAX_ITEMS * (MAX_RECORD_BYTES + 16) + 256


@dataclass(frozen=True, slots=True)
class Hello:
    """What a node already has, and its time of day."""

    at: float
    "Seconds since the epoch."
    has: Bloom

    def encode(self) -> bytes:
        """The frame."""
        return encode_frame(
            {
                "v": VERSION,
                "at": int(self.at * 1000),
                "salt": self.has.salt,
                "filter": self.has.bits,
            }
        )


def read_hello(frame: Frame) -> Hello:
    """A peer's hello.

    Raises:
        ProtocolError: malformed, or its filter is saturated.
    """
    fields = frame.header
    whole(fields, "v", VERSION, VERSION)
    at = whole(fields, "at", 0, MAX_EXACT) / 1000
    salt = blob(fields, "salt", SALT_BYTES, SALT_BYTES)
    return Hello(at, Bloom.received(salt, blob(fields, "filter", 0, MAX_BYTES)))


def encode_items(items: Sequence[Item]) -> bytes:
    """The frame that carries records."""
    header = {"hops": [item.hops for item in items], "sizes": [len(item.raw) for item in items]}
    return encode_frame(header, b"".join(item.raw for item in items))


def read_items(frame: Frame) -> list[Item]:
    """Records that a peer passes on; what is in them is not yet checked.

    Raises:
        ProtocolError: too many, too long, or more hops than a record can have.
    """
    hops = _wholes(frame.header.get("hops"), MAX_HOPS, "hops")
    sizes = _wholes(frame.header.get("sizes"), MAX_RECORD_BYTES, "sizes")
    if len(hops) != len(sizes) or sum(sizes) != len(frame.tail):
        raise ProtocolError("records that do not fit their frame")
    tail, at, items = bytes(frame.tail), 0, []
    for left, size in zip(hops, sizes, strict=True):
        items.append(Item(left, tail[at : at + size]))
        at += size
    return items


def _wholes(value: Any, high: int, name: str) -> list[int]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise ProtocolError(f"{name} must be a list of at most {MAX_ITEMS} integers")
    return [whole({name: each}, name, 1, high) for each in value]
