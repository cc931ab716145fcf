"""Requests of OpenAI's clients, as one of this node. No I/O.

A null counts as absent. What this node cannot do is refused with its name; what has no effect on
the answer is accepted; fields that nobody knows are reported, and do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from aitorrentd.api import GenerateRequest, InvalidParams

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
_HEADER_SAFE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)
_MOST_IGNORED: Final = 20
_MAX_SEED: Final = 2**63


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    request: GenerateRequest
    is_stream: bool
    with_usage: bool
    "Whether the stream ends with a chunk that has the usage."
    ignored: tuple[str, ...]
    "Unknown fields, as far as they can stand in a header."


def chat(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/chat/completions.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = _present(body)
    _refuse(fields)
    params = _params(fields)
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None:
        params["max_tokens"] = limit
    params |= _format(fields.get("response_format"))
    if "reasoning_effort" in fields:
        params["think"] = _one_of("reasoning_effort", fields["reasoning_effort"], _EFFORTS)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "is not a list with at least one message")
    turns = [_message(index, each) for index, each in enumerate(messages)]
    return _asked(fields, _CHAT, {"messages": turns, "params": params})


def completion(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/completions; errors as in `chat`."""
    fields = _present(body)
    _refuse(fields)
    params = _params(fields) | {"max_tokens": fields.get("max_tokens", DEFAULT_TOKENS)}
    prompt = fields.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise _wrong("prompt", "is not a text; send one prompt in a request, and no token ids")
    return _asked(fields, _COMPLETION, {"prompt": prompt, "raw": True, "params": params})


def _present(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value is not None}


def _refuse(fields: Mapping[str, Any]) -> None:
    """Refuse what would change the answer, and is not there yet."""
    for name, harmless in _NOTHING.items():
        if name not in fields:
            continue
        value = fields[name]
        if not any(type(value) is type(each) and value == each for each in harmless):
            raise _wrong(name, "is not supported by this server; leave it out", "unsupported_value")


def _params(fields: Mapping[str, Any]) -> dict[str, Any]:
    params = {name: fields[name] for name in _SAME if name in fields}
    if (seed := fields.get("seed")) is not None:
        if type(seed) is not int:
            raise _wrong("seed", "is not an integer")
        params["seed"] = seed % _MAX_SEED  # clients also send negative ones
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
        raise _wrong("response_format", "has no json_schema.schema")
    raise _wrong("response_format", "is not of the type text, json_object or json_schema")


def _message(index: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"messages[{index}]", "is not an object")
    turn = {k: v for k, v in _present(value).items() if k not in _MESSAGE_NO_EFFECT}
    for name, nothing in _MESSAGE_NOTHING.items():
        if turn.get(name) == nothing:
            del turn[name]
    for name in ("tool_calls", "tool_call_id", "function_call"):
        if name in turn:
            raise _wrong(
                f"messages[{index}].{name}",
                "is not supported by this server; leave it out",
                "unsupported_value",
            )
    if turn.get("role") == "assistant":
        turn.setdefault("content", "")
    if isinstance(turn.get("content"), list):
        for each in turn["content"]:
            _refuse_fetching(index, each)
    return turn


def _refuse_fetching(index: int, part: Any) -> None:
    """Images come in the request: a URL would make a server fetch what only it can reach."""
    if not isinstance(part, dict) or part.get("type") not in ("image_url", "input_image", "image"):
        return
    image = part.get("image_url", part.get("image"))
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url.startswith("data:"):
        raise _wrong(f"messages[{index}].content", "has an image that is not a data: URL")


def _asked(fields: Mapping[str, Any], known: frozenset[str], made: dict[str, Any]) -> Asked:
    stream = _flag("stream", fields.get("stream", False))
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise _wrong("stream_options", "is not an object")
    with_usage = _flag("stream_options.include_usage", options.get("include_usage") or False)
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise _wrong("model", "is not a text")
    try:
        request = GenerateRequest.model_validate({"model": model, **made})
    except ValidationError as e:
        raise _explained(e) from None
    unknown = sorted(name for name in fields.keys() - known if _HEADER_SAFE.fullmatch(name))
    return Asked(request, stream, with_usage, tuple(unknown[:_MOST_IGNORED]))


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "is neither true nor false")
    return value


def _one_of(name: str, value: Any, choices: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _wrong(name, f"is not one of {', '.join(choices)}")
    return choices[value]


def _explained(error: ValidationError) -> InvalidParams:
    """The first problem, with OpenAI's name for the field, and without what was sent."""
    found = error.errors(include_url=False, include_input=False)[0]
    path = [part for part in found["loc"] if part != "params"]
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    text = found["msg"].removeprefix("Value error, ")
    return InvalidParams(f"{name}: {text}" if name else text, param=name or None)


def _wrong(name: str, text: str, code: str = "invalid_value") -> InvalidParams:
    return InvalidParams(f"{name} {text}", param=name, http_code=code)
