"""Reads bencode (BEP 3) strictly: one way to write each value, bounded, without recursion.

Readers that disagree about a byte string see different info-hashes, so what is not canonical is
refused.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

MAX_DEPTH: Final = 16
MAX_VALUES: Final = 100_000
_MAX_DIGITS: Final = 19


class Malformed(ValueError):
    """The bytes are not canonical bencode, or exceed a limit."""


class Decoded(NamedTuple):
    """A dictionary, and where the values of its keys lie in the bytes."""

    value: dict[bytes, Any]
    spans: dict[bytes, tuple[int, int]]
    "Of the outermost dictionary: first byte, and the byte after the last."


class _Open:
    """A list or dictionary whose end was not read yet."""

    __slots__ = ("items", "key", "key_at", "last", "start")

    def __init__(self, start: int, items: list[Any] | dict[bytes, Any]) -> None:
        self.start = start
        self.items = items
        self.key: bytes | None = None
        self.last: bytes | None = None
        self.key_at = 0


def decode(raw: bytes) -> Decoded:
    """The dictionary that `raw` is, and nothing after it.

    Raises:
        Malformed: anything else.
    """
    if not raw.startswith(b"d"):
        raise Malformed("a torrent must be a bencoded dictionary")
    spans: dict[bytes, tuple[int, int]] = {}
    stack: list[_Open] = []
    at, values = 0, 0
    while True:
        if at >= len(raw):
            raise Malformed("the bencoding ends too early")
        values += 1
        if values > MAX_VALUES:
            raise Malformed(f"the bencoding has more than {MAX_VALUES} values")
        start, kind = at, raw[at : at + 1]
        if kind in (b"d", b"l"):
            if len(stack) >= MAX_DEPTH:
                raise Malformed(f"the bencoding is nested more than {MAX_DEPTH} deep")
            if stack:
                _expects_value(stack[-1])
            stack.append(_Open(start, {} if kind == b"d" else []))
            at += 1
            continue
        value: Any
        if kind == b"e":
            done = stack.pop()
            if done.key is not None:
                raise Malformed("a key of the bencoding has no value")
            value, start, at = done.items, done.start, at + 1
            if not stack:
                break
        elif kind == b"i":
            value, at = _integer(raw, at)
        else:
            value, at = _string(raw, at)
        _put(stack[-1], value, start, at, spans if len(stack) == 1 else None)
    if at != len(raw):
        raise Malformed("bytes follow the bencoded dictionary")
    return Decoded(value, spans)


def _expects_value(open_: _Open) -> None:
    if isinstance(open_.items, dict) and open_.key is None:
        raise Malformed("a key of the bencoding is not a string")


def _put(
    open_: _Open, value: Any, start: int, end: int, spans: dict[bytes, tuple[int, int]] | None
) -> None:
    if isinstance(open_.items, list):
        open_.items.append(value)
    elif open_.key is None:
        if not isinstance(value, bytes):
            raise Malformed("a key of the bencoding is not a string")
        if open_.last is not None and value <= open_.last:
            raise Malformed("keys of the bencoding are repeated or out of order")
        open_.key = open_.last = value
    else:
        open_.items[open_.key] = value
        if spans is not None:
            spans[open_.key] = (start, end)
        open_.key = None


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    end = raw.find(b"e", at, at + _MAX_DIGITS + 3)
    digits = raw[at + 1 : end] if end > 0 else b""
    number = digits.removeprefix(b"-")
    if not number.isdigit() or (number[:1] == b"0" and digits != b"0"):
        raise Malformed("an integer of the bencoding is malformed")
    return int(digits), end + 1


def _string(raw: bytes, at: int) -> tuple[bytes, int]:
    colon = raw.find(b":", at, at + 10)
    digits = raw[at:colon] if colon > 0 else b""
    if not digits.isdigit() or (digits[:1] == b"0" and digits != b"0"):
        raise Malformed("the length of a string in the bencoding is malformed")
    start, size = colon + 1, int(digits)
    if size > len(raw) - start:
        raise Malformed("a string of the bencoding is longer than the rest")
    return raw[start : start + size], start + size
