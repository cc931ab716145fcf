"""Requests of OpenAI's clients, as one of this node. No I/O.

A null counts as absent. What this node cannot do is refused with its name; what has no effect on
the answer is accepted; fields that nobody knows are reported, and do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.core.fields import (
    MAX_SEED,
    explained,
    flag,
    ignored_header,
    one_of,
    present,
    refuse_fetching,
    unsupported,
    wrong,
)
from aitorrentd.api import GenerateRequest

DEFAULT_TOKENS: Final = 16
"Of a completion without max_tokens, as at OpenAI."
_SAME: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
)
_NO_EFFECT: Final = frozenset(
    {
        "include_obfuscation",
        "metadata",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
_COMMON: Final = frozenset(
    {*_SAME, *_NO_EFFECT, "model", "max_tokens", "seed", "stream", "stream_options", "n"}
    | {"logit_bias", "logprobs"}
)
_CHAT: Final = _COMMON | {
    "messages",
    "max_completion_tokens",
    "response_format",
    "reasoning_effort",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "top_logprobs",
    "modalities",
    "audio",
    "web_search_options",
}
_COMPLETION: Final = _COMMON | {"prompt", "suffix", "echo", "best_of"}
# Values of fields that this node does not have, with which they ask for nothing.
_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "suffix": ("",),
    "echo": (False,),
}
_EFFORTS: Final = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
# Fields of a message that say nothing to the model.
_MESSAGE_NO_EFFECT: Final = frozenset(
    {"name", "refusal", "annotations", "reasoning", "reasoning_content", "audio", "id"}
)
_MESSAGE_NOTHING: Final[dict[str, Any]] = {"tool_calls": [], "function_call": {}}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    request: GenerateRequest
    is_stream: bool
    with_usage: bool
    "Whether the stream ends with a chunk that has the usage."
    headers: Mapping[str, str]
    "Of the answer: which fields nobody knows."


def chat(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/chat/completions.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    _refuse(fields)
    params = _params(fields)
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None:
        params["max_tokens"] = limit
    params |= _format(fields.get("response_format"))
    if "reasoning_effort" in fields:
        params["think"] = one_of("reasoning_effort", fields["reasoning_effort"], _EFFORTS)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "is not a list with at least one message")
    turns = [_message(index, each) for index, each in enumerate(messages)]
    return _asked(fields, _CHAT, {"messages": turns, "params": params})


def completion(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/completions; errors as in `chat`."""
    fields = present(body)
    _refuse(fields)
    params = _params(fields) | {"max_tokens": fields.get("max_tokens", DEFAULT_TOKENS)}
    prompt = fields.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise wrong("prompt", "is not a text; send one prompt in a request, and no token ids")
    return _asked(fields, _COMPLETION, {"prompt": prompt, "raw": True, "params": params})


def _refuse(fields: Mapping[str, Any]) -> None:
    """Refuse what would change the answer, and is not there yet."""
    for name, harmless in _NOTHING.items():
        if name not in fields:
            continue
        value = fields[name]
        if not any(type(value) is type(each) and value == each for each in harmless):
            raise unsupported(name)


def _params(fields: Mapping[str, Any]) -> dict[str, Any]:
    params = {name: fields[name] for name in _SAME if name in fields}
    if (seed := fields.get("seed")) is not None:
        if type(seed) is not int:
            raise wrong("seed", "is not an integer")
        params["seed"] = seed % MAX_SEED  # clients also send negative ones
    return params


def _format(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"format": "json"}
    if kind == "json_schema":
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if isinstance(schema, dict):
            return {"format": schema}
        raise wrong("response_format", "has no json_schema.schema")
    raise wrong("response_format", "is not of the type text, json_object or json_schema")


def _message(index: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(f"messages[{index}]", "is not an object")
    turn = {k: v for k, v in present(value).items() if k not in _MESSAGE_NO_EFFECT}
    for name, nothing in _MESSAGE_NOTHING.items():
        if turn.get(name) == nothing:
            del turn[name]
    for name in ("tool_calls", "tool_call_id", "function_call"):
        if name in turn:
            raise unsupported(f"messages[{index}].{name}")
    if turn.get("role") == "assistant":
        turn.setdefault("content", "")
    if isinstance(turn.get("content"), list):
        for each in turn["content"]:
            _refuse_fetching(index, each)
    return turn


def _refuse_fetching(index: int, part: Any) -> None:
    if isinstance(part, dict) and part.get("type") in ("image_url", "input_image", "image"):
        image = part.get("image_url", part.get("image"))
        url = image.get("url") if isinstance(image, dict) else image
        refuse_fetching(f"messages[{index}].content", url)


def _asked(fields: Mapping[str, Any], known: frozenset[str], made: dict[str, Any]) -> Asked:
    stream = flag("stream", fields.get("stream", False))
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise wrong("stream_options", "is not an object")
    with_usage = flag("stream_options.include_usage", options.get("include_usage") or False)
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise wrong("model", "is not a text")
    try:
        request = GenerateRequest.model_validate({"model": model, **made})
    except ValidationError as e:
        raise explained(e) from None
    return Asked(request, stream, with_usage, ignored_header(fields, known))
