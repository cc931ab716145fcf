"""What `/v1` answers as OpenAI's clients read it, as JSON Schemas by media type. No I/O.

Of a stream it is the data of one event. Tests hold answers of a node against them.
"""

from __future__ import annotations

from typing import Any, Final

from aitorrent_gateway.core.schemas import (
    COUNT,
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

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
Answers = dict[str, Json]
_TOKEN: Final = {"token": TEXT, "id?": COUNT, "logprob": NUMBER, "bytes": maybe(each(COUNT))}
_LOGPROBS: Final = shape(
    {
        "content": each(shape({**_TOKEN, "top_logprobs": each(shape(_TOKEN))})),
        "refusal": NOTHING,
    }
)
_USAGE: Final = shape(
    {
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "completion_tokens_details?": shape({"reasoning_tokens": COUNT}),
    }
)
_CALL: Final = shape(
    {
        "id": TEXT,
        "type": word("function"),
        "function": shape({"name": TEXT, "arguments": TEXT}),
    }
)
_REASON: Final = word("stop", "length", "tool_calls")
ERROR: Final = shape(
    {"error": shape({"message": TEXT, "type": TEXT, "param": maybe(TEXT), "code": TEXT})}
)


def _common(kind: str) -> dict[str, Any]:
    return {
        "id": TEXT,
        "object": word(kind),
        "created": COUNT,
        "model": TEXT,
        "system_fingerprint": TEXT,
    }


def _streamed(kind: str, choice: Json) -> Json:
    fields = {"choices": each(choice), "usage?": maybe(_USAGE), "x_aitorrent?": NODE}
    return one_of(shape({**_common(kind), **fields}), ERROR, word("[DONE]"))


def _whole(kind: str, choice: Json) -> Json:
    fields = {"choices": each(choice), "usage": _USAGE, "x_aitorrent": NODE}
    return shape({**_common(kind), **fields})


def chat() -> Answers:
    """Of /v1/chat/completions."""
    message = shape(
        {
            "role": word("assistant"),
            "content": maybe(TEXT),
            "refusal": NOTHING,
            "reasoning_content?": TEXT,
            "tool_calls?": each(_CALL),
        }
    )
    part = shape(
        {
            "index": COUNT,
            "id?": TEXT,
            "type?": word("function"),
            "function": shape({"name?": TEXT, "arguments": TEXT}),
        }
    )
    delta = shape(
        {
            "role?": word("assistant"),
            "content?": TEXT,
            "reasoning_content?": TEXT,
            "tool_calls?": each(part),
        }
    )
    ends = {"index": COUNT, "logprobs": maybe(_LOGPROBS)}
    return {
        JSON: _whole(
            "chat.completion", shape({**ends, "message": message, "finish_reason": _REASON})
        ),
        EVENTS: _streamed(
            "chat.completion.chunk",
            shape({**ends, "delta": delta, "finish_reason": maybe(_REASON)}),
        ),
    }


def completion() -> Answers:
    """Of /v1/completions."""
    logprobs = shape(
        {
            "tokens": each(TEXT),
            "token_logprobs": each(NUMBER),
            "top_logprobs": maybe(each({"type": "object", "additionalProperties": NUMBER})),
            "text_offset": each(COUNT),
        }
    )
    fields = {"index": COUNT, "text": TEXT, "logprobs": maybe(logprobs)}
    return {
        JSON: _whole("text_completion", shape({**fields, "finish_reason": _REASON})),
        EVENTS: _streamed("text_completion", shape({**fields, "finish_reason": maybe(_REASON)})),
    }


def embeddings() -> Answers:
    """Of /v1/embeddings; in base64 a vector is a text."""
    row = shape(
        {"object": word("embedding"), "index": COUNT, "embedding": one_of(each(NUMBER), TEXT)}
    )
    usage = shape({"prompt_tokens": COUNT, "total_tokens": COUNT})
    fields = {"object": word("list"), "data": each(row), "model": TEXT, "usage": usage}
    return {JSON: shape(fields)}


_MODEL: Final = shape(
    {
        "id": TEXT,
        "object": word("model"),
        "type": word("model"),
        "created": COUNT,
        "created_at": TEXT,
        "owned_by": TEXT,
        "display_name": TEXT,
        "lifecycle": TEXT,
        "context_length?": COUNT,
        "max_input_tokens?": COUNT,
    }
)


def model() -> Answers:
    """Of /v1/models/NAME."""
    return {JSON: _MODEL}


def models() -> Answers:
    """Of /v1/models."""
    return {
        JSON: shape(
            {
                "object": word("list"),
                "data": each(_MODEL),
                "has_more": {"const": False},
                "first_id": maybe(TEXT),
                "last_id": maybe(TEXT),
            }
        )
    }


def pictures() -> Answers:
    """Of /v1/images/generations."""
    picture = shape({"b64_json": TEXT})
    fields = {"created": COUNT, "data": each(picture), "output_format": TEXT, "size": TEXT}
    return {JSON: shape(fields)}
