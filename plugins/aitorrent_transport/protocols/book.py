"""Directory records: valid content, wire format, and the book that holds them. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aitorrentd.api import (
    Frame,
    InvalidParams,
    PeerId,
    ProtocolError,
    TooLarge,
    encode_frame,
    pack,
)

MAX_VALUE_BYTES: Final = 4096
MAX_KEY_CHARS: Final = 256
MAX_RECORDS: Final = 256
"Per node."
MAX_FRAME_BYTES: Final = 8192
_MAX_VALUE_ITEMS: Final = 512
_MAX_DEPTH: Final = 8

Value = Mapping[str, Any]


def check_key(key: object) -> str:
    """Return `key` if it is a valid directory key: 1 to 256 printable characters.

    Raises:
        ProtocolError: it is not.
    """
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
        raise ProtocolError(f"a directory key has 1 to {MAX_KEY_CHARS} printable characters")
    return key


class Book:
    """Records by peer and key. No I/O; the caller announces changes."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, dict[str, Value]] = {}

    def put(self, peer: PeerId, key: str, value: Value) -> bool:
        """Store a record; return whether anything changed.

        Raises:
            ProtocolError: the peer already has 256 records.
        """
        entries = self._by_peer.setdefault(peer, {})
        if key not in entries and len(entries) >= MAX_RECORDS:
            raise ProtocolError(f"more than {MAX_RECORDS} directory records from one node")
        changed = entries.get(key) != value
        entries[key] = value
        return changed

    def drop(self, peer: PeerId, key: str) -> bool:
        """Remove a record; return whether it existed."""
        return self._by_peer.get(peer, {}).pop(key, None) is not None

    def forget(self, peer: PeerId) -> list[str]:
        """Remove all records of a peer; return their keys."""
        return list(self._by_peer.pop(peer, {}))

    def of(self, peer: PeerId) -> dict[str, Value]:
        """The peer's records."""
        return dict(self._by_peer.get(peer, {}))

    def select(self, wanted: Callable[[str], bool]) -> list[tuple[PeerId, str, Value]]:
        """Records whose key is wanted."""
        return [
            (peer, key, value)
            for peer, entries in self._by_peer.items()
            for key, value in entries.items()
            if wanted(key)
        ]


def is_shallow(value: object, depth: int) -> bool:
    """Whether maps and lists in `value` are nested at most `depth` deep."""
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    else:
        return True
    return depth > 0 and all(is_shallow(each, depth - 1) for each in inner)


def put_frame(key: str, value: Value) -> bytes:
    """A record in wire format.

    Raises:
        InvalidParams: not msgpack. TooLarge: more than 4 KiB packed.
    """
    if not is_shallow(value, _MAX_DEPTH):
        raise InvalidParams(f"the value under {key} is nested deeper than {_MAX_DEPTH}")
    try:
        size = len(pack(value))
    except (TypeError, ValueError, OverflowError, RecursionError) as e:
        raise InvalidParams(f"the value under {key} cannot be packed: {e}") from None
    if size > MAX_VALUE_BYTES:
        raise TooLarge(f"the value under {key} has {size} bytes; the limit is {MAX_VALUE_BYTES}")
    return encode_frame({"op": "put", "key": key, "value": value})


def del_frame(key: str) -> bytes:
    """The frame that withdraws a record."""
    return encode_frame({"op": "del", "key": key})


def synced_frame() -> bytes:
    """The frame that marks the end of the initial records."""
    return encode_frame({"op": "synced"})


def read_put(frame: Frame) -> tuple[str, Value]:
    """Key and value of a put.

    Raises:
        ProtocolError: malformed.
    """
    key = check_key(frame.header.get("key"))
    value = frame.header.get("value")
    if not isinstance(value, dict) or len(value) > _MAX_VALUE_ITEMS:
        raise ProtocolError(f"the value under {key!r} is not a small map")
    if not all(isinstance(k, str) for k in value):
        raise ProtocolError(f"the value under {key!r} has keys that are not text")
    if not is_shallow(value, _MAX_DEPTH):
        raise ProtocolError(f"the value under {key!r} is nested deeper than {_MAX_DEPTH}")
    if len(pack(value)) > MAX_VALUE_BYTES:
        raise ProtocolError(f"the value under {key!r} is longer than {MAX_VALUE_BYTES} bytes")
    return key, value
