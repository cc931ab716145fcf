"""JSON-RPC 2.0 messages as MCP uses them. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_gateway.core.bodies import json_object
from aitorrentd.api import InvalidParams

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
REFUSED: Final = -32000
"Implementation-defined: what is wrong has no code of its own in the specification."
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022
MAX_BYTES: Final = 2**20
"The largest message."
_MOST_ID_CHARS: Final = 256
_MOST_METHOD_CHARS: Final = 128
Id = str | int | None


class RpcError(Exception):
    """A message that is answered with an error."""

    def __init__(self, code: int, message: str, *, ident: Id = None, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ident = ident
        "Of the message, if it could be read."
        self.data = data


@dataclass(frozen=True, slots=True)
class Message:
    """A request, or a notification if it has no id."""

    method: str
    params: dict[str, Any]
    ident: Id

    @property
    def is_notification(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.ident is None

    @property
    def meta(self) -> Mapping[str, Any]:
        """`params._meta`; empty if it is no object."""
        found = self.params.get("_meta")
        return found if isinstance(found, dict) else {}


def read(text: bytes) -> Message | None:
    """The message in a body or a line; None for a client's answer, which nobody here asked for.

    Raises:
        RpcError: it is none.
    """
    if len(text) > MAX_BYTES:
        raise RpcError(INVALID_REQUEST, f"the message is larger than {MAX_BYTES} bytes")
    if text.lstrip()[:1] == b"[":
        raise RpcError(
            INVALID_REQUEST, "MCP has no batches since 2025-06-18; send one message at a time"
        )
    try:
        value = json_object(text)
    except InvalidParams as e:
        raise RpcError(PARSE_ERROR, e.message) from e
    ident = _ident(value)
    method, params = value.get("method"), value.get("params")
    if "method" not in value and ("result" in value or "error" in value):
        return None
    if value.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'the message lacks "jsonrpc": "2.0"', ident=ident)
    if not isinstance(method, str) or not 1 <= len(method) <= _MOST_METHOD_CHARS:
        raise RpcError(INVALID_REQUEST, "the message has no method", ident=ident)
    if params is not None and not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "params is not an object", ident=ident)
    return Message(method, params or {}, ident)


def _ident(value: Mapping[str, Any]) -> Id:
    ident = value.get("id")
    if "id" not in value:
        return None
    if type(ident) is int and abs(ident) < 2**63:
        return ident
    if type(ident) is str and len(ident) <= _MOST_ID_CHARS and _is_text(ident):
        return ident
    raise RpcError(INVALID_REQUEST, "the id is neither a text nor a whole number")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which strict readers refuse
        return False
    return True


def encode(value: Any) -> bytes:
    """JSON on one line, in ASCII: no reader of lines finds a line's end in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def result_of(ident: Id, result: bytes) -> bytes:
    """The answer to a request; `result` is JSON."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (encode(ident), result)


def error_of(error: RpcError) -> bytes:
    """The answer to what is wrong."""
    told: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        told["data"] = error.data
    return encode({"jsonrpc": "2.0", "id": error.ident, "error": told})


def notification(method: str, params: Mapping[str, Any]) -> bytes:
    """A notification to the client."""
    return encode({"jsonrpc": "2.0", "method": method, "params": params})
