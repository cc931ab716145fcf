"""Frames: the units inside a channel's records.

    u8      kind
    u32 BE  stream id; 0 for the channel itself
    u16 BE  length of the payload
    payload

A record holds one or more complete frames. The dialer opens streams with odd ids, the listener with
even ones, each in ascending order; ids are never reused.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from aitorrentd.api import ProtocolError

MAX_RECORD_BYTES: Final = 65_536
"Maximum plaintext of one record of the secure channel."
MAX_DATA_BYTES: Final = 60 * 1024
"Maximum payload of one data frame; leaves room in the record for accompanying small frames."
MAX_PROTOCOL_CHARS: Final = 128
MAX_REASON_BYTES: Final = 256
NONCE_BYTES: Final = 8
PLACE_BYTES: Final = 32
"Length of the handshake hash that names a link."
JOIN_BYTES: Final = 4096
"Payload of a JOIN frame: fills several packets of full size, which a bad path would drop."

HEADER: Final = struct.Struct(">BIH")
HEADER_BYTES: Final = HEADER.size
_CREDIT: Final = struct.Struct(">I")


class Kind(IntEnum):
    """Frame types."""

    HELLO = 0
    "First frame of each side; payload is a msgpack map."
    OPEN = 1
    "A new stream; payload is the protocol id."
    DATA = 2
    "Bytes of a stream, 1 to 60 KiB."
    WINDOW = 3
    "The receiver of a stream allows this many more bytes (u32)."
    END = 4
    "No more bytes follow on this stream."
    STOP = 5
    "The sender stops reading from this stream; payload is a reason."
    RESET = 6
    "Both directions of the stream are over; payload is a reason."
    PING = 7
    "Payload is an 8-byte nonce to echo."
    PONG = 8
    "Echoes the nonce."
    RETIRE = 9
    "The sender has another channel to this node and opens no more streams here."
    DUPLICATE = 10
    "Another node with the receiver's key is connected to the sender; payload is its address."
    JOIN = 11
    "First frame on a link to which a channel may move; payload names its current link, padded."
    MOVE = 12
    "The sender's last frame on this link; it continues on the link that the payload names."


def frame(kind: Kind, stream: int, payload: bytes = b"") -> bytes:
    """A complete frame; `payload` must be valid for its kind."""
    return HEADER.pack(kind, stream, len(payload)) + payload


def window_frame(stream: int, credit: int) -> bytes:
    """A WINDOW frame that allows `credit` more bytes (1 to 2^32 - 1)."""
    return HEADER.pack(Kind.WINDOW, stream, 4) + _CREDIT.pack(credit)


def reason_bytes(reason: str) -> bytes:
    """`reason` in wire format: UTF-8, at most 256 bytes."""
    return reason.encode("utf-8", "replace")[:MAX_REASON_BYTES]


def read_reason(payload: memoryview) -> str:
    """A peer's reason, sanitised for logs and terminals.

    Raises:
        ProtocolError: too long.
    """
    if len(payload) > MAX_REASON_BYTES:
        raise ProtocolError(f"reason of {len(payload)} bytes; the limit is {MAX_REASON_BYTES}")
    text = bytes(payload).decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def read_credit(payload: memoryview) -> int:
    """The number of additional bytes that a WINDOW frame grants.

    Raises:
        ProtocolError: not a positive u32.
    """
    if len(payload) != 4:
        raise ProtocolError(f"window frame with {len(payload)} bytes of payload, not 4")
    credit = int(_CREDIT.unpack(payload)[0])
    if credit == 0:
        raise ProtocolError("window frame of zero bytes")
    return credit


def read_nonce(payload: memoryview) -> bytes:
    """The nonce of a ping or pong.

    Raises:
        ProtocolError: not 8 bytes.
    """
    if len(payload) != NONCE_BYTES:
        raise ProtocolError(f"ping nonce of {len(payload)} bytes, not {NONCE_BYTES}")
    return bytes(payload)


def join_frame(place: bytes) -> bytes:
    """A JOIN frame for the channel on the link with the handshake hash `place`."""
    return frame(Kind.JOIN, 0, place.ljust(JOIN_BYTES, b"\0"))


def first_frame(record: memoryview) -> tuple[int, memoryview]:
    """Kind and payload of the first frame in a record.

    Raises:
        ProtocolError: the record is shorter than that.
    """
    if len(record) >= HEADER_BYTES:
        kind, _, size = HEADER.unpack_from(record)
        payload = record[HEADER_BYTES : HEADER_BYTES + size]
        if len(payload) == size:
            return kind, payload
    raise ProtocolError(f"a record of {len(record)} bytes without a whole frame")


def read_place(payload: memoryview) -> bytes:
    """The handshake hash that a JOIN or MOVE frame names.

    Raises:
        ProtocolError: too short.
    """
    if len(payload) < PLACE_BYTES:
        raise ProtocolError(f"link named by {len(payload)} bytes, not {PLACE_BYTES}")
    return bytes(payload[:PLACE_BYTES])


def is_protocol_id(text: str) -> bool:
    """Whether `text` is a valid protocol id: 1 to 128 visible ASCII characters."""
    return 0 < len(text) <= MAX_PROTOCOL_CHARS and all("!" <= c <= "~" for c in text)


def read_protocol(payload: memoryview) -> str:
    """The protocol id of an OPEN frame.

    Raises:
        ProtocolError: empty, too long, or not visible ASCII.
    """
    if len(payload) > MAX_PROTOCOL_CHARS:
        raise ProtocolError(f"protocol id of {len(payload)} bytes; the limit is 128")
    text = bytes(payload).decode("latin-1")
    if not is_protocol_id(text):
        raise ProtocolError("protocol id that is empty or not visible ASCII")
    return text
