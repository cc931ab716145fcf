"""`/ai-torrent/1/count-tokens` and `/ai-torrent/1/embed`: the lines that peers exchange. No I/O.

A request to count is the line of `/ai-torrent/1/generate`; the answer is `{"tokens"}`. A request
for vectors is `{"texts", "model", "dimensions", "truncate"}`; the answer has a line
`{"embedding"}` for each text, in order, in base64 of little-endian IEEE 754 single precision (as
OpenAI's API with `encoding_format: base64`), then `{"done": true, "tokens"}`. An error is a final
line `{"error", "code"}`, as in generate. Unknown fields of a request are rejected by name.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode, b64encode
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_inference.peers.error_facts import ErrorFacts
from aitorrent_inference.peers.generate_protocol import encoded, invalid_request, reported
from aitorrentd.api import AitorrentError, Embeddings, EmbedRequest, ProtocolError
from aitorrentd.api.models.embeddings import MAX_DIMENSIONS, vector

COUNT_TOKENS: Final = "/ai-torrent/1/count-tokens"
EMBED: Final = "/ai-torrent/1/embed"
_FLOAT_BYTES: Final = 4
_MAX_BASE64: Final = (MAX_DIMENSIONS * _FLOAT_BYTES + 2) // 3 * 4


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")

    error: str | None = None
    code: str = Field("", max_length=64)
    about: ErrorFacts = ErrorFacts()
    tokens: int | None = Field(None, ge=0, lt=2**53)
    embedding: str | None = Field(None, max_length=_MAX_BASE64)
    done: bool = False


def _reply(line: bytes) -> _Reply | AitorrentError:
    try:
        reply = _Reply.model_validate_json(line)
    except ValidationError as e:
        problem = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ProtocolError(f"bad answer line: {where}: {problem['msg']}") from None
    return reply if reply.error is None else reported(reply.error, reply.code, reply.about)


def count_line(tokens: int) -> bytes:
    """The answer to a request to count."""
    return encoded({"tokens": tokens})


def decode_count(line: bytes) -> int | AitorrentError:
    """The count, or the error that the peer reports.

    Raises:
        ProtocolError: malformed.
    """
    reply = _reply(line)
    if isinstance(reply, AitorrentError):
        return reply
    if reply.tokens is None:
        raise ProtocolError("bad answer line: it has no tokens")
    return reply.tokens


def encode_embed_request(request: EmbedRequest) -> bytes:
    """Encode the request as one line."""
    return encoded(request.model_dump(exclude_defaults=True))


def decode_embed_request(line: bytes) -> EmbedRequest:
    """Decode a request from an untrusted line.

    Raises:
        ProtocolError: not JSON. InvalidParams: not a valid request, or unknown fields.
    """
    try:
        return EmbedRequest.model_validate_json(line)
    except ValidationError as e:
        raise invalid_request(e) from None


def vector_line(values: array[float]) -> bytes:
    """The line of one vector."""
    if sys.byteorder != "little":
        values = values[:]
        values.byteswap()
    return encoded({"embedding": b64encode(values.tobytes()).decode()})


def embed_last_line(tokens: int) -> bytes:
    """The line that ends an answer with vectors."""
    return encoded({"done": True, "tokens": tokens})


class EmbedReader:
    """Gathers the lines of an answer to a request for `count` vectors."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._vectors: list[array[float]] = []

    def read(self, line: bytes) -> Embeddings | AitorrentError | None:
        """The whole answer once `line` completes it, or the error that the peer reports.

        Raises:
            ProtocolError: malformed, or another number of vectors.
        """
        reply = _reply(line)
        if isinstance(reply, AitorrentError):
            return reply
        if not reply.done:
            self._add(reply.embedding or "")
            return None
        if len(self._vectors) != self._count:
            raise ProtocolError(f"{len(self._vectors)} vectors for {self._count} texts")
        return Embeddings(tuple(self._vectors), reply.tokens or 0)

    def _add(self, text: str) -> None:
        try:
            raw = b64decode(text, validate=True)
            found: Any = array("f", raw)
            if sys.byteorder != "little":
                found.byteswap()
            made = vector(found)
        except ValueError as e:
            raise ProtocolError(f"bad answer line: {e}") from None
        if len(self._vectors) == self._count or len(made) != len((self._vectors or [made])[0]):
            raise ProtocolError("bad answer line: too many vectors, or one of another length")
        self._vectors.append(made)
