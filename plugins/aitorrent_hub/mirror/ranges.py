"""The Range header of a request for a file (RFC 9110, section 14). No I/O."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Part(NamedTuple):
    """A part of a file."""

    start: int
    stop: int
    "The byte after its last."
    is_whole: bool
    "Whether no part was asked for."


class NoSuchPart(Exception):
    """The file has no byte of the part that was asked for."""


def part_of(size: int, header: str) -> Part:
    """What `header` asks of a file with `size` bytes: one range; anything else is ignored, as the
    standard allows.

    Raises:
        NoSuchPart: the range begins behind the end.
    """
    match = _RANGE.fullmatch(header.replace(" ", "").lower()) if header else None
    if match is None or not (match[1] or match[2]):
        return Part(0, size, True)
    if not match[1]:  # the last bytes
        length = int(match[2])
        if not length or not size:
            raise NoSuchPart
        return Part(max(0, size - length), size, False)
    start = int(match[1])
    stop = int(match[2]) + 1 if match[2] else size
    if stop <= start and match[2]:
        return Part(0, size, True)
    if start >= size:
        raise NoSuchPart
    return Part(start, min(stop, size), False)
