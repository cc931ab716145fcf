"""Frames of the control API, without I/O.

A frame is a u32 big-endian length and one msgpack array whose first element is the kind:

    [0 hello, map]                       [5 end, id, summary]
    [1 call, id, method, params, meta]   [6 cancel, id]
    [2 result, id, value]                [7 progress, id, {text, done, total, unit}]
    [3 error, id, {code, message, data}] [8 credit, id, n]
    [4 item, id, seq, value]

The client chooses ids, 1 to 2^32-1, unique while open; an error with id 0 concerns the connection,
which then closes. Unknown kinds and extra elements are ignored, so that either side may be newer.
The length is checked before any of the body is parsed, then depth and sizes.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

from aitorrentd.errors import ProtocolError, TooLarge
from aitorrentd.wire import unpack

HELLO: Final = 0
CALL: Final = 1
RESULT: Final = 2
ERROR: Final = 3
ITEM: Final = 4
END: Final = 5
CANCEL: Final = 6
PROGRESS: Final = 7
CREDIT: Final = 8

PROTO: Final = (1, 1)
"Lowest and highest framing version that this code speaks."
MAX_HELLO_BYTES: Final = 64 * 1024
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_ID: Final = 2**32 - 1
DEFAULT_CREDIT: Final = 64
MAX_CREDIT: Final = 65_536
MAX_DEADLINE_S: Final = 30 * 86_400.0

# An empty list costs 1 byte on the wire, 64 in memory, and time on the event loop. Below this size
# that is harmless; above it, elements are counted while they are decoded.
_COUNTED_ABOVE_BYTES: Final = 64 * 1024
_MAX_PARTS: Final = 524_288
_LENGTH: Final = struct.Struct(">I")
_length_at = _LENGTH.unpack_from
_pack_length = _LENGTH.pack


def _packable(value: Any) -> Any:
    """A value that msgpack cannot encode, as one that it can."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent over the control API")


def encode(*fields: Any) -> bytes:
    """One frame; pydantic models, dataclasses, sets and paths become maps, lists and text.

    Raises:
        TooLarge: beyond 16 MiB. TypeError, ValueError, OverflowError: a value that msgpack cannot
        encode.
    """
    body: bytes = msgpack.packb(fields, default=_packable)
    if len(body) > MAX_FRAME_BYTES:
        raise TooLarge(f"the answer has {len(body)} bytes; the limit is {MAX_FRAME_BYTES}")
    return _pack_length(len(body)) + body


def _unpack_counted(body: bytes) -> Any:
    left = _MAX_PARTS

    def count(value: Any) -> Any:
        nonlocal left
        left -= 1 + len(value)
        if left < 0:
            raise ValueError("too many parts")
        return value

    try:
        return msgpack.unpackb(
            body,
            strict_map_key=False,
            max_array_len=65_536,
            max_map_len=65_536,
            max_ext_len=0,
            list_hook=count,
            object_hook=count,
        )
    except (ValueError, TypeError, RecursionError, MemoryError) as e:
        raise ProtocolError(f"invalid msgpack ({type(e).__name__})") from None
    except (msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData):
        raise ProtocolError("invalid msgpack") from None


def _is_deeper(value: Any, levels: int) -> bool:
    row = [value]
    for _ in range(levels):
        row = [
            inner
            for outer in row
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is list or type(inner) is dict
        ]
        if not row:
            return False
    return True


def decode(body: bytes) -> list[Any]:
    """The array in a frame's body; element 0 is an integer, the rest is unchecked.

    Raises:
        ProtocolError: not a single msgpack array that starts with a kind, too deep, or too many
        elements.
    """
    message = unpack(body) if len(body) <= _COUNTED_ABOVE_BYTES else _unpack_counted(body)
    if type(message) is not list or not message or type(message[0]) is not int:
        raise ProtocolError("a frame is an array that starts with its kind")
    if _is_deeper(message, MAX_DEPTH):
        raise ProtocolError(f"nested deeper than {MAX_DEPTH}")
    return message


def is_answer(message: list[Any]) -> bool:
    """Whether a frame from a daemon has the shape of an answer: a kind, an id and a value.

    Raises:
        ProtocolError: the id is not a number.
    """
    if len(message) < 3:
        return False
    if type(message[1]) is not int:
        raise ProtocolError("an answer without a call id")
    return True


class FrameSplitter:
    """Splits a byte stream into frame bodies; keeps at most one incomplete frame.

    `max_bytes` may be raised between frames, as after the hello.
    """

    __slots__ = ("_buffer", "_start", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()
        self._start = 0

    @property
    def is_empty(self) -> bool:
        """Whether no bytes are pending."""
        return self._start == len(self._buffer)

    def feed(self, chunk: bytes) -> None:
        """Add received bytes. Take every complete frame before feeding more."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += chunk

    def announced(self) -> int | None:
        """The length of the next frame's body, or None until its 4 bytes have arrived.

        Raises:
            TooLarge: beyond `max_bytes`. ProtocolError: an empty frame.
        """
        if len(self._buffer) - self._start < 4:
            return None
        return check_length(_length_at(self._buffer, self._start)[0], self.max_bytes)

    def take(self) -> bytes | None:
        """The next frame's body, or None until it is complete.

        Raises:
            TooLarge, ProtocolError: as in `announced`.
        """
        length = self.announced()
        if length is None or len(self._buffer) - self._start < 4 + length:
            return None
        begin = self._start + 4
        self._start = begin + length
        body = bytes(memoryview(self._buffer)[begin : self._start])
        if self._start == len(self._buffer):
            self._buffer.clear()
            self._start = 0
        return body


def whole_frame(chunk: bytes, max_bytes: int) -> bytes | None:
    """The body, if `chunk` is exactly one frame: the usual case for a waiting caller.

    Raises:
        TooLarge, ProtocolError: an invalid length.
    """
    if len(chunk) < 4:
        return None
    length = check_length(_length_at(chunk)[0], max_bytes)
    return chunk[4:] if length + 4 == len(chunk) else None


def check_length(length: int, max_bytes: int) -> int:
    """`length`, if a frame's body may be that long.

    Raises:
        TooLarge: beyond `max_bytes`. ProtocolError: zero.
    """
    if length > max_bytes:
        raise TooLarge(f"frame of {length} bytes; the limit here is {max_bytes}")
    if length == 0:
        raise ProtocolError("empty frame")
    return length


def is_id(value: object) -> bool:
    """Whether a call may have this id."""
    return type(value) is int and 1 <= value <= MAX_ID


def is_number(value: object) -> bool:
    """Whether a value from the wire is a finite number."""
    return type(value) is int or (type(value) is float and -1e300 < value < 1e300)


def common_proto(hello: object) -> int | None:
    """The highest framing version shared by the other side's hello and this code, or None.

    Raises:
        ProtocolError: not a hello.
    """
    offer = hello.get("proto") if type(hello) is dict else None
    if type(offer) is not list or len(offer) != 2 or not all(type(n) is int for n in offer):
        raise ProtocolError("a hello is a map with proto: [lowest, highest]")
    best: int = min(PROTO[1], offer[1])
    return best if best >= max(PROTO[0], offer[0]) else None
