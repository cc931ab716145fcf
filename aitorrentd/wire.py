"""Bounded msgpack, and frames with a raw tail.

One frame layout serves the worker pipes and the tensor streams between peers:

    u32 BE  length of everything after this field
    u16 BE  length of the header
    header  one msgpack map, small
    tail    raw bytes (tensors), never parsed here

Length is checked before anything is read, then depth and sizes, then the schema by the caller.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from aitorrentd.errors import ProtocolError, TooLarge

MAX_HEADER_BYTES: Final = 65_535
DEFAULT_MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
_LENGTHS: Final = struct.Struct(">IH")
# Created once, since creating one costs as much as packing with it. One thread packs heads.
_pack_head = msgpack.Packer(use_bin_type=True).pack


class Frame(NamedTuple):
    """A decoded frame; `tail` is a bytes-like the receiver owns."""

    header: dict[str, Any]
    tail: bytes | memoryview = b""


class ByteReader(Protocol):
    """What `read_frame` reads from: a peer stream, or asyncio's StreamReader wrapped."""

    async def read_exactly(self, n: int) -> bytes:
        """Exactly `n` bytes, or PeerGone if the other side ends first."""


def pack(value: object) -> bytes:
    """`value` as msgpack; text as str, bytes as bin."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(raw: bytes | memoryview, *, max_items: int = 65_536) -> Any:
    """One msgpack value from untrusted bytes.

    Strings and blobs cannot be longer than `raw`; lists and maps have at most `max_items` entries.

    Raises:
        ProtocolError: not exactly one value, too deep, or a forged length.
    """
    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=False,
            max_array_len=max_items,
            max_map_len=max_items,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, MemoryError) as e:
        raise ProtocolError(f"invalid msgpack ({type(e).__name__})") from None
    except (msgpack.exceptions.UnpackException, msgpack.exceptions.ExtraData):
        raise ProtocolError("invalid msgpack") from None


def unpack_map(raw: bytes | memoryview, *, max_items: int = 65_536) -> dict[str, Any]:
    """Like `unpack`, for a map whose keys are all text.

    Raises:
        ProtocolError: as in `unpack`, or not such a map.
    """
    value = unpack(raw, max_items=max_items)
    if not isinstance(value, dict):
        raise ProtocolError("expected a map with text keys")
    for key in value:
        if type(key) is not str:
            raise ProtocolError("expected a map with text keys")
    return value


def frame_head(header: dict[str, Any], tail_len: int) -> bytes:
    """The bytes of a frame before its tail; write the tail right after them.

    Raises:
        TooLarge: the header does not fit its 16-bit length.
    """
    global _pack_head
    packed: bytes = _pack_head(header)
    if len(packed) > MAX_HEADER_BYTES:
        _pack_head = msgpack.Packer(use_bin_type=True).pack  # the old one keeps its memory
        raise TooLarge(f"frame header of {len(packed)} bytes; the limit is {MAX_HEADER_BYTES}")
    return _LENGTHS.pack(2 + len(packed) + tail_len, len(packed)) + packed


def encode_frame(header: dict[str, Any], tail: bytes | memoryview = b"") -> bytes:
    """A whole frame in one bytes object; for long tails prefer `frame_head` and a second write."""
    return b"".join((frame_head(header, len(tail)), tail))


def check_length(length: int, max_bytes: int) -> None:
    """Reject a frame by its length field, before any of it is read.

    Raises:
        ProtocolError: shorter than its own fields or longer than `max_bytes`.
    """
    if not 2 <= length <= max_bytes:
        raise ProtocolError(f"frame of {length} bytes; allowed are 2 to {max_bytes}")


def decode_frame(body: bytes | bytearray | memoryview, start: int = 0) -> Frame:
    """The frame whose bytes after the length field are `body[start:]`.

    Raises:
        ProtocolError: a header length beyond the frame, or a header that is not a map.
    """
    size, begin = len(body), start + 2
    if size < begin:
        raise ProtocolError("frame without a header length")
    length = body[start] << 8 | body[start + 1]
    end = begin + length
    if end > size:
        raise ProtocolError(f"frame header of {length} bytes in a frame of {size - start}")
    view = memoryview(body)
    return Frame(unpack_map(view[begin:end]), view[end:])


async def read_frame(reader: ByteReader, *, max_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> Frame:
    """The next frame of a stream.

    Raises:
        ProtocolError: an invalid frame. PeerGone: the stream ended.
    """
    length = int.from_bytes(await reader.read_exactly(4), "big")
    check_length(length, max_bytes)
    return decode_frame(await reader.read_exactly(length))
