"""What Anthropic's clients are answered, as JSON Schemas by media type. No I/O.

Of a stream it is the data of one event. Tests hold answers of a node against them.
"""

from __future__ import annotations

from typing import Final

from aitorrent_gateway.core.schemas import (
    ANY_OBJECT,
    COUNT,
    NOTHING,
    TEXT,
    Json,
    each,
    maybe,
    one_of,
    shape,
    word,
)

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
Answers = dict[str, Json]
_USAGE: Final = shape(
    {
        "input_tokens": COUNT,
        "cache_creation_input_tokens": COUNT,
        "cache_read_input_tokens": COUNT,
        "output_tokens": COUNT,
        "output_tokens_details?": shape({"thinking_tokens": COUNT}),
    }
)
_BLOCK: Final = one_of(
    shape({"type": word("text"), "text": TEXT}),
    shape({"type": word("thinking"), "thinking": TEXT, "signature": TEXT}),
    shape({"type": word("tool_use"), "id": TEXT, "name": TEXT, "input": ANY_OBJECT}),
)
_REASON: Final = word("end_turn", "max_tokens", "tool_use", "stop_sequence")
_ERROR_FIELDS: Final = {
    "type": word("error"),
    "error": shape({"type": TEXT, "message": TEXT, "details?": shape({"error_code": TEXT})}),
    "request_id": TEXT,
}


def error() -> Json:
    """Of an error."""
    return shape(_ERROR_FIELDS)


def _message(content: Json, reason: Json, stop: Json) -> Json:
    return shape(
        {
            "id": TEXT,
            "type": word("message"),
            "role": word("assistant"),
            "model": TEXT,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _USAGE,
        }
    )


def message() -> Answers:
    """Of /v1/messages."""
    delta = one_of(
        shape({"type": word("text_delta"), "text": TEXT}),
        shape({"type": word("thinking_delta"), "thinking": TEXT}),
        shape({"type": word("signature_delta"), "signature": TEXT}),
        shape({"type": word("input_json_delta"), "partial_json": TEXT}),
    )
    begun = _message({**each(_BLOCK), "maxItems": 0}, NOTHING, NOTHING)
    end = shape({"stop_reason": _REASON, "stop_sequence": maybe(TEXT)})
    events = (
        shape({"type": word("message_start"), "message": begun}),
        shape({"type": word("ping")}),
        shape({"type": word("content_block_start"), "index": COUNT, "content_block": _BLOCK}),
        shape({"type": word("content_block_delta"), "index": COUNT, "delta": delta}),
        shape({"type": word("content_block_stop"), "index": COUNT}),
        shape({"type": word("message_delta"), "delta": end, "usage": _USAGE}),
        shape({"type": word("message_stop")}),
        error(),
    )
    return {JSON: _message(each(_BLOCK), _REASON, maybe(TEXT)), EVENTS: one_of(*events)}


def count() -> Answers:
    """Of /v1/messages/count_tokens."""
    return {JSON: shape({"input_tokens": COUNT})}
