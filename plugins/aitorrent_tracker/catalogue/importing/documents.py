"""Documents of an older catalogue, as `mongoexport` writes them (MongoDB Extended JSON v2).

Nobody signed them, and they have no SHA-256: what they become is listed as unsigned.
"""

from __future__ import annotations

import re
from base64 import b32decode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

from aitorrent_tracker.catalogue.sql.entries import APPROVED, Entry
from aitorrentd.api import InvalidParams
from aitorrentd.api.fields import MAX_EXACT
from aitorrentd.api.models.file_names import check_commit, check_path, check_repo

_HEX: Final = re.compile(r"[0-9a-fA-F]{40}", re.ASCII)
_BASE32: Final = re.compile(r"[A-Za-z2-7]{32}", re.ASCII)
_BTIH: Final = "urn:btih:"
_NUMBERS: Final = ("$numberLong", "$numberInt", "$numberDouble", "$numberDecimal")
_MAX_FILES: Final = 1_000_000


def entry_of_document(document: Mapping[str, Any], now: int) -> Entry:
    """The entry that a document stands for. `now` in seconds since the epoch replaces a date that
    is missing or unreadable.

    Raises:
        InvalidParams: a field is missing or wrong; the message names it.
    """
    count = _whole(document, ("file_count",), 1, 1, _MAX_FILES)
    return Entry(
        repo_id=_checked(document, ("repo_id",), check_repo),
        commit_hash=_checked(document, ("commit_hash", "revision"), check_commit),
        filename=_filename(document, count),
        size=_whole(document, ("file_size", "total_size"), None, 1, MAX_EXACT),
        sha256="",
        info_hash=_info_hash(document),
        piece_length=_whole(document, ("piece_length",), 0, 0, 2**31),
        state=APPROVED,
        published_at=_seconds(document, now),
        file_count=count,
    )


def _filename(document: Mapping[str, Any], count: int) -> str:
    """Empty for the torrent of a folder."""
    if count > 1 and not _text(document, ("filename",)):
        return ""
    return _checked(document, ("filename",), check_path)


def _text(document: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = document.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _checked(document: Mapping[str, Any], names: tuple[str, ...], check: Any) -> str:
    try:
        found: str = check(_text(document, names))
    except ValueError as e:
        raise InvalidParams(f"{names[0]} {e}") from None
    return found


def _whole(
    document: Mapping[str, Any], names: tuple[str, ...], default: int | None, low: int, high: int
) -> int:
    for name in names:
        value = number_of(document.get(name))
        if value is not None:
            if not low <= value <= high:
                raise InvalidParams(f"{name} must be from {low} to {high}, not {value}")
            return value
    if default is None:
        raise InvalidParams(f"{names[0]} is missing, or no whole number")
    return default


def number_of(value: object) -> int | None:
    """A whole number, plain or as `{"$numberLong": "5"}`; None for anything else."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, value),) = value.items()
        if kind not in _NUMBERS:
            return None
    if isinstance(value, str):
        # int() would accept underscores and the digits of other scripts.
        digits = value.removesuffix(".0")
        is_number = digits.isascii() and digits.removeprefix("-").isdigit() and len(digits) < 20
        return int(digits) if is_number else None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


def _info_hash(document: Mapping[str, Any]) -> str:
    own = hash_of(_text(document, ("info_hash",)))
    linked = _linked(_text(document, ("magnet_link",)))
    if own and linked and own != linked:
        raise InvalidParams("info_hash is another one than that in magnet_link")
    if not (own or linked):
        raise InvalidParams("info_hash is missing, or not 40 hexadecimal digits")
    return own or linked


def hash_of(text: str) -> str:
    """A v1 info-hash in lower-case hexadecimal, from hexadecimal or base32; empty for neither."""
    if _HEX.fullmatch(text):
        return text.lower()
    return b32decode(text.upper()).hex() if _BASE32.fullmatch(text) else ""


def _linked(magnet: str) -> str:
    if not magnet.startswith("magnet:?") or len(magnet) > 16_384:
        return ""
    try:
        topics = parse_qs(magnet.removeprefix("magnet:?"), max_num_fields=256).get("xt", [])
    except ValueError:
        return ""
    found = (hash_of(each.removeprefix(_BTIH)) for each in topics if each.startswith(_BTIH))
    return next(found, "")


def _seconds(document: Mapping[str, Any], now: int) -> int:
    """The date of a document, no later than `now`."""
    for name in ("created_at", "published_at", "createdAt"):
        value = document.get(name)
        if isinstance(value, Mapping) and len(value) == 1 and "$date" in value:
            value = value["$date"]
        at = None
        if isinstance(value, str):
            try:
                at = int(datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp())
            except (ValueError, OverflowError, OSError):
                at = None
        elif (millis := number_of(value)) is not None:
            at = millis // 1000
        if at is not None and 0 < at <= now:
            return at
    return now
