"""Text from users: arguments as the kernel passes them, which may be any bytes.

Python decodes them by the locale and maps undecodable bytes to lone surrogates (PEP 383), which
cannot be encoded as UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from aitorrentd.errors import InvalidParams


def readable(args: Sequence[str]) -> list[str]:
    """The arguments as text: decoded as UTF-8 where the locale cannot decode them.

    Raises:
        InvalidParams: one of them is not UTF-8; the message says which.
    """
    return [arg if _is_text(arg) else _decoded(arg, number) for number, arg in enumerate(args, 1)]


def _is_text(arg: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in arg)


def _decoded(arg: str, number: int) -> str:
    try:
        raw = os.fsencode(arg)
    except UnicodeEncodeError:  # the caller's own surrogates, not the kernel's bytes
        raw = arg.encode("utf-8", "surrogatepass")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        shown = "".join(
            c if c.isprintable() else "?" for c in raw.decode("utf-8", "backslashreplace")
        )
        raise InvalidParams(f"argument {number} is not UTF-8: {shown[:80]}") from None


def unreadable(error: UnicodeError) -> str:
    """What is wrong with text to be read or written, in plain words."""
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"it is not {_name(error.encoding)}: byte 0x{byte:02x} at position {error.start}"
    if isinstance(error, UnicodeEncodeError):
        character = error.object[error.start]
        if "\ud800" <= character <= "\udfff":
            return f"it has an unpaired surrogate, \\u{ord(character):04x}"
        return (
            f"the locale ({_name(error.encoding)}) has no {character!a}; "
            "set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        )
    return str(error)


def _name(encoding: str) -> str:
    return "UTF-8" if encoding.lower().replace("-", "") == "utf8" else encoding
