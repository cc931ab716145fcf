"""Pictures as bytes: what they are, and how large. No I/O."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from aitorrentd.api import ProtocolError

MAX_BYTES: Final = 32 * 2**20
"The largest picture."
MAX_PIXELS: Final = 8192 * 8192
"More is a bomb for whoever decodes it."
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
# Start-of-frame markers (ITU-T T.81, table B.1): all of C0 to CF but DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture of known kind and size."""

    content: bytes
    media_type: str
    width: int
    height: int

    def base64(self) -> str:
        """The picture as JSON carries it."""
        return base64.b64encode(self.content).decode()


def picture(content: bytes, who: str) -> Drawn:
    """The picture in what a server sent.

    Raises:
        ProtocolError: it is none, or too large.
    """
    if len(content) > MAX_BYTES:
        raise ProtocolError(f"{who} sent a picture of over {MAX_BYTES} bytes")
    found = _png(content) or _webp(content) or _jpeg(content)
    if found is None:
        raise ProtocolError(f"{who} sent something that is no PNG, JPEG or WebP picture")
    media_type, width, height = found
    if not 0 < width * height <= MAX_PIXELS:
        raise ProtocolError(f"{who} sent a picture of {width} x {height} pixels")
    return Drawn(content, media_type, width, height)


def from_base64(text: object, who: str) -> Drawn:
    """The picture in a text of base64, or a data URL.

    Raises:
        ProtocolError: as `picture`, or it is no base64.
    """
    if not isinstance(text, str) or not text:
        raise ProtocolError(f"{who} sent no picture")
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"{who} sent a picture that is no base64") from None
    return picture(content, who)


def sample() -> bytes:
    """A small picture that needs no server: 64 x 64, a gradient."""
    rows = b"".join(
        b"\0" + b"".join(bytes((4 * x, 4 * y, 128)) for x in range(64)) for y in range(64)
    )
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return _PNG + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png(content: bytes) -> tuple[str, int, int] | None:
    if not content.startswith(_PNG) or content[12:16] != b"IHDR" or len(content) < 24:
        return None
    width, height = struct.unpack(">II", content[16:24])
    return "image/png", width, height


def _webp(content: bytes) -> tuple[str, int, int] | None:
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        return "image/webp", width, 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return "image/webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", content[26:30])
        return "image/webp", width & 0x3FFF, height & 0x3FFF
    return None


def _jpeg(content: bytes) -> tuple[str, int, int] | None:
    if not content.startswith(_JPEG):
        return None
    at = 2
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return "image/jpeg", width, height
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        if length < 2:
            return None
        at += 2 + length
    return None
