"""What Ollama's clients are answered, as JSON Schemas by media type. No I/O.

Of a stream it is one line. Tests hold answers of a node against them.
"""

from __future__ import annotations

from typing import Final

from aitorrent_gateway.core.schemas import (
    ANY_OBJECT,
    COUNT,
    FLAG,
    NODE,
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
LINES: Final = "application/x-ndjson"
Answers = dict[str, Json]
_TOKEN: Final = {"token": TEXT, "id?": COUNT, "logprob": NUMBER, "bytes": maybe(each(COUNT))}
_CALL: Final = shape(
    {"id?": TEXT, "function": shape({"index": COUNT, "name": TEXT, "arguments": ANY_OBJECT})}
)
_DETAILS: Final = shape(
    {
        "parent_model": TEXT,
        "format": TEXT,
        "family": TEXT,
        "families": each(TEXT),
        "parameter_size": TEXT,
        "quantization_level": TEXT,
    }
)
_COMMON: Final = {
    "name": TEXT,
    "model": TEXT,
    "size": COUNT,
    "digest": TEXT,
    "details": _DETAILS,
}


def error() -> Json:
    """Of an error."""
    return shape({"error": TEXT})


def _answers(said: dict[str, Json]) -> Answers:
    begin = {
        "model": TEXT,
        "created_at": TEXT,
        **said,
        "logprobs?": each(shape({**_TOKEN, "top_logprobs": each(shape(_TOKEN))})),
    }
    figures = {
        "total_duration": COUNT,
        "load_duration": COUNT,
        "prompt_eval_count": COUNT,
        "prompt_eval_duration": COUNT,
        "eval_count": COUNT,
        "eval_duration": COUNT,
        "context?": each(COUNT),
        "x_aitorrent": NODE,
    }
    done: dict[str, Json] = {"done": {"const": True}}
    end = shape({**begin, **done, "done_reason": word("stop", "length"), **figures})
    moved = shape({**begin, **done, "done_reason": word("load", "unload")})
    part = shape({**begin, "done": {"const": False}})
    return {JSON: one_of(end, moved), LINES: one_of(part, end, moved, error())}


def chat() -> Answers:
    """Of /api/chat."""
    message = shape(
        {
            "role": word("assistant"),
            "content": TEXT,
            "thinking?": TEXT,
            "tool_calls?": each(_CALL),
        }
    )
    return _answers({"message": message})


def generate() -> Answers:
    """Of /api/generate."""
    return _answers({"response": TEXT, "thinking?": TEXT, "tool_calls?": each(_CALL)})


def embed() -> Answers:
    """Of /api/embed."""
    return {
        JSON: shape(
            {
                "model": TEXT,
                "embeddings": each(each(NUMBER)),
                "total_duration": COUNT,
                "load_duration": COUNT,
                "prompt_eval_count": COUNT,
            }
        )
    }


def embeddings() -> Answers:
    """Of /api/embeddings."""
    return {JSON: shape({"embedding": each(NUMBER)})}


def tags() -> Answers:
    """Of /api/tags."""
    model = shape({**_COMMON, "modified_at": TEXT, "capabilities": each(TEXT)})
    return {JSON: shape({"models": each(model)})}


def ps() -> Answers:
    """Of /api/ps."""
    stage = {"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2}
    loaded = {
        "expires_at": TEXT,
        "size_vram": COUNT,
        "context_length": COUNT,
        "stages": each(stage),
    }
    return {JSON: shape({"models": each(shape({**_COMMON, **loaded}))})}


def show() -> Answers:
    """Of /api/show."""
    return {
        JSON: shape(
            {
                "license": TEXT,
                "modelfile": TEXT,
                "parameters": TEXT,
                "template": TEXT,
                "details": _DETAILS,
                "model_info": ANY_OBJECT,
                "capabilities": each(TEXT),
                "modified_at": TEXT,
            }
        )
    }


def version() -> Answers:
    """Of /api/version."""
    return {JSON: shape({"version": TEXT, "aitorrent": TEXT})}


def pull() -> Answers:
    """Of /api/pull; the whole answer is the last line."""
    line = shape({"status": TEXT, "digest?": TEXT, "total?": COUNT, "completed?": COUNT})
    return {JSON: line, LINES: one_of(line, error())}


def copy_body() -> Json:
    """Of a request to /api/copy."""
    return shape({"source": TEXT, "destination": TEXT})


def show_body() -> Json:
    """Of a request to /api/show."""
    return _named({"verbose?": maybe(FLAG)})


def pull_body() -> Json:
    """Of a request to /api/pull."""
    return _named({"stream?": maybe(FLAG), "insecure?": maybe(FLAG)})


def embed_body() -> Json:
    """Of a request to /api/embed."""
    texts = one_of(TEXT, each(TEXT))
    return _named({"input?": maybe(texts), "truncate?": maybe(FLAG), "dimensions?": maybe(COUNT)})


def embeddings_body() -> Json:
    """Of a request to /api/embeddings."""
    return _named({"prompt?": maybe(TEXT)})


def _named(fields: dict[str, Json]) -> Json:
    """A body with the name of a model, under either key."""
    either = [{"required": ["model"]}, {"required": ["name"]}]
    names = {"model?": maybe(TEXT), "name?": maybe(TEXT)}
    return {**shape({**names, **fields}), "anyOf": either}
