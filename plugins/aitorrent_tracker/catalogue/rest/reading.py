"""Reads requests: bodies and queries of strangers, bounded and strict."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect, Request

from aitorrentd.api import InvalidParams, TooLarge

MAX_BODY_BYTES: Final = 6 * 2**20
"A publication with the largest .torrent file, in base64."
MAX_QUERY_CHARS: Final = 2048
MAX_TEXT_CHARS: Final = 1024
MAX_LIMIT: Final = 200
DEFAULT_LIMIT: Final = 50
_MAX_ID: Final = 2**62


async def json_body(request: Request) -> object:
    """The JSON value of a body.

    Raises:
        InvalidParams: it is no JSON, or says something twice. TooLarge: it is too long.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A browser sends other kinds across origins without asking; none of them is taken.
        raise InvalidParams("send Content-Type: application/json")
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                raise TooLarge(f"a request may have at most {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise InvalidParams("the body ended too early") from None
    try:
        return json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidParams("the body is not JSON with each key once") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def query(request: Request, known: Collection[str]) -> Mapping[str, str]:
    """The parameters of a query, each once.

    Raises:
        InvalidParams: one is unknown, repeated, too long, or has a NUL.
    """
    if len(request.scope["query_string"]) > MAX_QUERY_CHARS:
        raise InvalidParams(f"a query may have at most {MAX_QUERY_CHARS} characters")
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise InvalidParams(f"unknown parameter {name[:32]!r}; known: {', '.join(known)}")
        if name in found:
            raise InvalidParams(f"the parameter {name} is repeated")
        if "\0" in value or len(value) > MAX_TEXT_CHARS:
            raise InvalidParams(f"{name} has a NUL, or more than {MAX_TEXT_CHARS} characters")
        found[name] = value
    return found


def whole(found: Mapping[str, str], name: str, default: int, low: int, high: int = _MAX_ID) -> int:
    """A whole number of a query.

    Raises:
        InvalidParams: it is none, or out of range.
    """
    text = found.get(name)
    if text is None:
        return default
    # int() would accept signs, underscores, spaces and the digits of other scripts.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise InvalidParams(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def path_id(request: Request) -> int:
    """The number of an entry, in a path.

    Raises:
        InvalidParams: it is none.
    """
    return whole(request.path_params, "id", 0, 1)
