"""WebSocket frames after the upgrade (RFC 6455, section 5): binary messages as one stream of bytes.

No I/O. Payloads pass through as they arrive, complete or not; only control frames are buffered.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Final

from aitorrentd.api import ProtocolError

CONTINUATION: Final = 0x0
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
MAX_CONTROL_BYTES: Final = 125
KEY_BYTES: Final = 4

Payload = bytes | bytearray | memoryview

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MAX_LENGTH: Final = 2**63 - 1


@functools.cache
def _table(byte: int) -> bytes:
    return bytes(i ^ byte for i in range(256))


def xor(payload: Payload, key: bytes) -> bytearray:
    """`payload` masked or unmasked with the 4 bytes of `key` (5.3)."""
    # The fastest way in Python without numpy, which the daemon does not load.
    out = bytearray(payload)
    for i in range(KEY_BYTES):
        out[i::KEY_BYTES] = out[i::KEY_BYTES].translate(_table(key[i]))
    return out


def websocket_frame(opcode: int, payload: Payload, *, masked: bool) -> tuple[bytes, Payload]:
    """Header and payload of a complete message; a client masks it with a fresh key."""
    size = len(payload)
    bit = _MASKED if masked else 0
    if size < 126:
        head = bytes((_FIN | opcode, bit | size))
    elif size < 65_536:
        head = bytes((_FIN | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, bit | 127)) + size.to_bytes(8, "big")
    if not masked:
        return head, payload
    key = os.urandom(KEY_BYTES)
    return head + key, xor(payload, key)


class WebSocketReader:
    """Frames in one direction; `masked` is true for frames from a client."""

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._head = b""
        self._opcode = CONTINUATION
        self._fragmented = False
        self._left = 0
        self._key = b""
        self._control: bytes | None = None

    def feed(self, chunk: bytes) -> Iterator[tuple[int, Payload]]:
        """Yield (opcode, payload) from `chunk`: pieces of binary messages, control frames.

        Raises:
            ProtocolError: the other side violates RFC 6455 or sends a text message.
        """
        rest = memoryview(chunk)
        while len(rest):
            if not self._left and self._control is None:
                rest = self._take_head(rest)
                if self._control is None or self._left:
                    continue
            piece, rest = rest[: self._left], rest[self._left :]
            self._left -= len(piece)
            payload = self._unmask(piece)
            if self._control is None:
                yield BINARY, payload
            else:
                self._control += payload
                if not self._left:
                    control, self._control = self._control, None
                    yield self._opcode, control

    def _unmask(self, piece: memoryview) -> Payload:
        if not self._masked:
            return piece
        payload = xor(piece, self._key)
        turn = len(piece) % KEY_BYTES
        self._key = self._key[turn:] + self._key[:turn]
        return payload

    def _take_head(self, chunk: memoryview) -> memoryview:
        """Consume the next frame's header, or the available part; return the rest of `chunk`."""
        before = len(self._head)
        head = self._head + bytes(chunk[: 14 - before])
        long = {126: 2, 127: 8}.get(head[1] & 0x7F, 0) if len(head) > 1 else 0
        size = 2 + long + (KEY_BYTES if self._masked else 0)
        if len(head) > 1:
            self._check(head[0], head[1])
        if len(head) < size:
            self._head = head
            return chunk[len(chunk) :]
        self._head = b""
        length = head[1] & 0x7F
        if long:
            length = int.from_bytes(head[2 : 2 + long], "big")
            if length < (126 if long == 2 else 65_536) or length > _MAX_LENGTH:
                raise ProtocolError(f"broken WebSocket: a length of {length} in {long} bytes")
        self._key = head[size - KEY_BYTES : size] if self._masked else b""
        self._left = length
        self._opcode = head[0] & 0x0F
        if self._opcode >= CLOSE:
            self._control = b""
        else:
            self._fragmented = not head[0] & _FIN
        return chunk[size - before :]

    def _check(self, first: int, second: int) -> None:
        opcode = first & 0x0F
        problem = ""
        if first & _RESERVED or opcode not in (CONTINUATION, BINARY, CLOSE, PING, PONG):
            problem = f"a frame that begins with 0x{first:02x}"
        elif bool(second & _MASKED) != self._masked:
            problem = "a frame that is masked" if second & _MASKED else "a frame without a mask"
        elif opcode >= CLOSE:
            if not first & _FIN or second & 0x7F > MAX_CONTROL_BYTES:
                problem = "a control frame that is long or in parts"
        elif (opcode == CONTINUATION) != self._fragmented:
            problem = "a message within another" if opcode else "a continuation of nothing"
        if problem:
            raise ProtocolError(f"broken WebSocket: {problem}")
