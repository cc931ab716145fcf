"""Vectors in a server's answer. No I/O."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from typing import Any

from aitorrentd.api.fields import count_of
from aitorrentd.api.models.embeddings import Embeddings, vector
from aitorrentd.errors import ProtocolError


def embeddings(server: str, rows: object, count: int, tokens: object) -> Embeddings:
    """The vectors of `count` texts: lists of numbers, or base64 of little-endian floats (OpenAI).

    Raises:
        ProtocolError: not one valid vector for each text, all of one length.
    """
    if not isinstance(rows, list) or len(rows) != count:
        found = f"{len(rows)} vectors" if isinstance(rows, list) else "no list of vectors"
        raise ProtocolError(f"{server} sent {found} for {count} text{'' if count == 1 else 's'}")
    try:
        vectors = tuple(vector(_numbers(row)) for row in rows)
    except ValueError as e:
        raise ProtocolError(f"{server} sent {e}") from None
    if len({len(each) for each in vectors}) > 1:
        raise ProtocolError(f"{server} sent vectors of different lengths")
    return Embeddings(vectors, count_of(tokens))


def _numbers(row: Any) -> Any:
    if isinstance(row, list):
        return row
    if not isinstance(row, str):
        raise ValueError("a vector that is neither a list nor base64")
    found = array("f", b64decode(row, validate=True))
    if sys.byteorder != "little":
        found.byteswap()
    return found
