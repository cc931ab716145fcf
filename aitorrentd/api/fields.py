"""Validates the fields of an untrusted map one by one.

    start = whole(header, "start", 0, MAX_LAYERS)

Each function returns the value of one field, or raises ProtocolError with a message that names the
field and its requirement. A missing field is an error, and `true` is not a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from aitorrentd.errors import ProtocolError

T = TypeVar("T")

MAX_EXACT: Final = 2**53 - 1
"The largest integer that every JSON implementation represents exactly (RFC 8259, section 6)."


def whole(fields: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """An integer from `low` to `high`.

    Raises:
        ProtocolError: missing, of the wrong type, or out of range.
    """
    value = fields.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{name} must be an integer from {low} to {high}")
    return value


def whole_or(
    fields: Mapping[str, Any], name: str, default: T, low: int = 0, high: int = MAX_EXACT
) -> int | T:
    """An integer from `low` to `high`, else `default`; for informational values only."""
    value = fields.get(name)
    return value if type(value) is int and low <= value <= high else default


def count_of(value: object) -> int:
    """A count, also as a whole float or as a string; 0 for anything else. Only for informational
    values of servers that are not peers."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:16])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_EXACT else 0


def number(fields: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """A number from `low` to `high`; finite bounds exclude infinities.

    Raises:
        ProtocolError: missing, of the wrong type, or out of range.
    """
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ProtocolError(f"{name} must be a number from {low:g} to {high:g}")
    return float(value)


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """A boolean.

    Raises:
        ProtocolError: anything else.
    """
    value = fields.get(name)
    if type(value) is not bool:
        raise ProtocolError(f"{name} must be true or false")
    return value


def text(
    fields: Mapping[str, Any],
    name: str,
    max_chars: int,
    *,
    min_chars: int = 1,
    printable: bool = False,
) -> str:
    """A string of `min_chars` to `max_chars` characters; with `printable`, all printable.

    Raises:
        ProtocolError: missing, of the wrong type or length, or with forbidden characters.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not min_chars <= len(value) <= max_chars:
        raise ProtocolError(f"{name} must be a string of {min_chars} to {max_chars} characters")
    if printable and not value.isprintable():
        raise ProtocolError(f"{name} must consist of printable characters")
    return value


def blob(fields: Mapping[str, Any], name: str, low: int, high: int) -> bytes:
    """Binary data of `low` to `high` bytes.

    Raises:
        ProtocolError: missing, or of the wrong type or length.
    """
    value = fields.get(name)
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        size = str(low) if low == high else f"{low} to {high}"
        raise ProtocolError(f"{name} must be {size} bytes")
    return value


def texts(
    fields: Mapping[str, Any],
    name: str,
    max_items: int,
    max_chars: int,
    *,
    printable: bool = False,
) -> tuple[str, ...]:
    """A list of at most `max_items` strings of at most `max_chars` characters each.

    Raises:
        ProtocolError: missing, or anything else.
    """
    value = fields.get(name)
    if not isinstance(value, (list, tuple)) or len(value) > max_items:
        raise ProtocolError(f"{name} must be a list of at most {max_items} strings")
    for item in value:
        text({name: item}, name, max_chars, min_chars=0, printable=printable)
    return tuple(value)
