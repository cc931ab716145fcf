"""What /v1/responses answers, as JSON Schemas by media type. No I/O.

Of a stream it is the data of one event. Tests hold answers of a node against them.
"""

from __future__ import annotations

from typing import Final

from aitorrent_gateway.core.schemas import (
    COUNT,
    FLAG,
    NODE,
    NOTHING,
    NUMBER,
    TEXT,
    Json,
    each,
    maybe,
    one_of,
    shape,
    word,
)
from aitorrent_gateway.openai.responses.requests import echoed

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
Answers = dict[str, Json]
_TOKEN: Final = {"token": TEXT, "id?": COUNT, "logprob": NUMBER, "bytes": each(COUNT)}
_LOGPROBS: Final = each(shape({**_TOKEN, "top_logprobs": each(shape(_TOKEN))}))
_PART: Final = shape(
    {
        "type": word("output_text"),
        "annotations": {"type": "array", "maxItems": 0},
        "logprobs": _LOGPROBS,
        "text": TEXT,
    }
)
_SUMMARY: Final = shape({"type": word("summary_text"), "text": TEXT})
_STATUS: Final = word("in_progress", "completed", "incomplete")
_CALL: Final = {"id": TEXT, "status": _STATUS, "call_id": TEXT, "name": TEXT, "namespace?": TEXT}
_ITEM: Final = one_of(
    shape(
        {
            "id": TEXT,
            "type": word("message"),
            "status": _STATUS,
            "content": each(_PART),
            "role": word("assistant"),
        }
    ),
    shape({"id": TEXT, "type": word("reasoning"), "summary": each(_SUMMARY)}),
    shape({**_CALL, "type": word("function_call"), "arguments": TEXT}),
    shape({**_CALL, "type": word("custom_tool_call"), "input": TEXT}),
)
_USAGE: Final = shape(
    {
        "input_tokens": COUNT,
        "input_tokens_details": shape({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": shape({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
)


def _response(*statuses: str) -> Json:
    return shape(
        {
            "id": TEXT,
            "object": word("response"),
            "created_at": COUNT,
            "status": word(*statuses),
            "background": FLAG,
            "completed_at": maybe(COUNT),
            "error": maybe(shape({"code": TEXT, "message": TEXT})),
            "incomplete_details": maybe(shape({"reason": word("max_output_tokens")})),
            "model": TEXT,
            "output": each(_ITEM),
            "previous_response_id": NOTHING,
            "service_tier": word("default"),
            "store": FLAG,
            "usage": maybe(_USAGE),
            **{name: {} for name in echoed({})},
            "x_aitorrent?": NODE,
        }
    )


def _event(kind: str, fields: dict[str, Json]) -> Json:
    return shape({"type": word(f"response.{kind}"), "sequence_number": COUNT, **fields})


def response() -> Answers:
    """Of /v1/responses."""
    item = {"output_index": COUNT, "item": _ITEM}
    place = {"item_id": TEXT, "output_index": COUNT}
    text, summary = {**place, "content_index": COUNT}, {**place, "summary_index": COUNT}
    call, custom = "function_call_arguments", "custom_tool_call_input"
    events = (
        _event("created", {"response": _response("in_progress")}),
        _event("in_progress", {"response": _response("in_progress")}),
        _event("completed", {"response": _response("completed")}),
        _event("incomplete", {"response": _response("incomplete")}),
        _event("failed", {"response": _response("failed")}),
        _event("output_item.added", item),
        _event("output_item.done", item),
        _event("content_part.added", {**text, "part": _PART}),
        _event("content_part.done", {**text, "part": _PART}),
        _event("output_text.delta", {**text, "delta": TEXT, "logprobs": _LOGPROBS}),
        _event("output_text.done", {**text, "text": TEXT, "logprobs": _LOGPROBS}),
        _event("reasoning_summary_part.added", {**summary, "part": _SUMMARY}),
        _event("reasoning_summary_part.done", {**summary, "part": _SUMMARY}),
        _event("reasoning_summary_text.delta", {**summary, "delta": TEXT}),
        _event("reasoning_summary_text.done", {**summary, "text": TEXT}),
        _event(f"{call}.delta", {**place, "delta": TEXT}),
        _event(f"{call}.done", {**place, "name": TEXT, "arguments": TEXT}),
        _event(f"{custom}.delta", {**place, "delta": TEXT}),
        _event(f"{custom}.done", {**place, "input": TEXT}),
    )
    return {JSON: _response("completed", "incomplete"), EVENTS: one_of(*events)}


def input_tokens() -> Answers:
    """Of /v1/responses/input_tokens."""
    return {JSON: shape({"object": word("response.input_tokens"), "input_tokens": COUNT})}
