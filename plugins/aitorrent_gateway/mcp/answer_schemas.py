"""MCP's messages as JSON Schemas, what is asked and what is answered. No I/O."""

from __future__ import annotations

from typing import Final

from aitorrent_gateway.core.schemas import ANY_OBJECT, TEXT, Json, one_of, shape, word

_VERSION: Final = word("2.0")
_IDENT: Final[Json] = {"type": ["string", "integer"]}
_ERROR: Final = shape({"code": {"type": "integer"}, "message": TEXT, "data?": {}})


def message_body() -> Json:
    """Of a request or a notification, or of a client's answer, which is dropped."""
    asked = shape(
        {
            "jsonrpc": _VERSION,
            "id?": _IDENT,
            "method": TEXT,
            "params?": {"type": ["object", "null"]},
        }
    )
    told = shape({"result?": {}, "error?": {}})
    either = [{"required": ["result"]}, {"required": ["error"]}]
    return one_of(asked, {**told, "anyOf": either})


def error() -> Json:
    """Of a message that is answered with an error; without an id, if it could not be read."""
    ident: Json = {"type": ["string", "integer", "null"]}
    return shape({"jsonrpc": _VERSION, "id": ident, "error": _ERROR})


def answers() -> dict[str, Json]:
    """Of /mcp; a stream has notifications before the answer. A notification is answered with
    status 202 and nothing."""
    result = shape({"jsonrpc": _VERSION, "id": _IDENT, "result": ANY_OBJECT})
    told = shape({"jsonrpc": _VERSION, "method": TEXT, "params": ANY_OBJECT})
    return {
        "application/json": one_of(result, error()),
        "text/event-stream": one_of(told, result, error()),
    }
