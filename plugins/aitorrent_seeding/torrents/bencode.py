"""Bencoding (BEP 3): written canonically, read strictly and without recursion.

Stricter than most clients: keys are sorted and unique, integers are canonical, and nothing follows
the value. Where each value of the outermost dictionary lies is reported, because an info-hash is
computed over the bytes as they were sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Union

from aitorrentd.api import ProtocolError

Value = Union[int, bytes, "list[Value]", "dict[bytes, Value]"]
MAX_DEPTH: Final = 12
"A folder torrent of version 2 nests its path; every other torrent needs five levels."
MAX_VALUES: Final = 1_000_000
_MAX_DIGITS: Final = 18


def encode(value: int | bytes | Sequence[object] | Mapping[bytes, object]) -> bytes:
    """The one canonical encoding of `value`."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: object, parts: list[bytes]) -> None:
    if isinstance(value, int):
        parts.append(b"i%de" % value)
    elif isinstance(value, bytes):
        parts += (b"%d:" % len(value), value)
    elif isinstance(value, Mapping):
        parts.append(b"d")
        for key in sorted(value):
            _encode(key, parts)
            _encode(value[key], parts)
        parts.append(b"e")
    elif isinstance(value, Sequence):
        parts.append(b"l")
        for one in value:
            _encode(one, parts)
        parts.append(b"e")


def encode_info(info: bytes) -> bytes:
    """A .torrent file with nothing but `info`, which is encoded already."""
    return b"d4:info" + info + b"e"


class _Open:
    """A list or dictionary that is not closed yet."""

    __slots__ = ("key", "value")

    def __init__(self, value: list[Value] | dict[bytes, Value]) -> None:
        self.value = value
        self.key: bytes | None = None


class Decoded:
    """A decoded dictionary, and the span of each of its own values."""

    def __init__(self, value: dict[bytes, Value], spans: Mapping[bytes, tuple[int, int]]) -> None:
        self.value = value
        self.spans = spans


def decode(raw: bytes) -> Decoded:
    """The dictionary that `raw` encodes.

    Raises:
        ProtocolError: it is not one, or is nested or filled beyond the limits.
    """
    if raw[:1] != b"d":
        raise ProtocolError("is not a bencoded dictionary")
    root: dict[bytes, Value] = {}
    stack = [_Open(root)]
    spans: dict[bytes, tuple[int, int]] = {}
    at, started = 1, 1
    for _ in range(MAX_VALUES):
        top, mark = stack[-1], raw[at : at + 1]
        if mark == b"e":
            _check_complete(top)
            stack.pop()
            at += 1
            if not stack:
                return _whole(raw, at, Decoded(root, spans))
            if len(stack) == 1:
                spans[stack[0].key or b""] = (started, at)
            stack[-1].key = None
            continue
        if isinstance(top.value, dict) and top.key is None:
            key, at = _bytes(raw, at)
            if top.value and key <= next(reversed(top.value)):
                raise ProtocolError("has dictionary keys that are not sorted or occur twice")
            top.value[key] = 0  # holds the place, so that the order of the keys is checked
            top.key, started = key, at if len(stack) == 1 else started
            continue
        if mark in (b"d", b"l"):
            if len(stack) >= MAX_DEPTH:
                raise ProtocolError(f"is nested more than {MAX_DEPTH} levels deep")
            inner: list[Value] | dict[bytes, Value] = {} if mark == b"d" else []
            _put(top, inner)
            stack.append(_Open(inner))
            at += 1
            continue
        value, at = _integer(raw, at) if mark == b"i" else _bytes(raw, at)
        _put(top, value)
        if len(stack) == 1:
            spans[top.key or b""] = (started, at)
        top.key = None
    raise ProtocolError(f"has over {MAX_VALUES} values")


def _put(top: _Open, value: Value) -> None:
    if isinstance(top.value, dict):
        top.value[top.key or b""] = value
    else:
        top.value.append(value)


def _check_complete(top: _Open) -> None:
    if isinstance(top.value, dict) and top.key is not None:
        raise ProtocolError("has a dictionary key without a value")


def _whole(raw: bytes, at: int, decoded: Decoded) -> Decoded:
    if at != len(raw):
        raise ProtocolError(f"has {len(raw) - at} bytes after its end")
    return decoded


def _digits(raw: bytes, at: int, end: bytes) -> tuple[bytes, int]:
    stop = raw.find(end, at, at + _MAX_DIGITS + 2)
    if stop < 0:
        raise ProtocolError("is cut off, or has a number that is too long")
    return raw[at:stop], stop + 1


def _number(digits: bytes) -> int:
    is_canonical = digits.isdigit() and (digits == b"0" or digits[:1] != b"0")
    if not is_canonical or len(digits) > _MAX_DIGITS:
        raise ProtocolError("has a number that is not written canonically")
    return int(digits)


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    digits, at = _digits(raw, at + 1, b"e")
    if digits[:1] == b"-":
        value = -_number(digits[1:])
        if value == 0:
            raise ProtocolError("has a number that is not written canonically")
        return value, at
    return _number(digits), at


def _bytes(raw: bytes, at: int) -> tuple[bytes, int]:
    digits, at = _digits(raw, at, b":")
    length = _number(digits)
    if length > len(raw) - at:
        raise ProtocolError("is cut off")
    return raw[at : at + length], at + length
