"""Requests of Ollama's clients, as one of this node. No I/O.

A null counts as absent. What this node cannot do is refused with its name; fields that nobody knows
are reported, and do not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.core.aliases import MAX_MODEL_CHARS
from aitorrent_gateway.core.documents import body_of
from aitorrent_gateway.core.fields import (
    explained,
    flag,
    ignored_header,
    one_of,
    parts_of,
    present,
    refuse_fetching,
    unsupported,
    wrong,
)
from aitorrent_gateway.ollama import durations, options
from aitorrentd.api import GenerateRequest
from aitorrentd.api.models.inference import has_begun

_COMMON: Final = frozenset(
    {"model", "name", "stream", "options", "format", "keep_alive", "think", "truncate", "shift"}
    | {"logprobs", "top_logprobs"}
)
_CHAT: Final = _COMMON | {"messages", "tools"}
_GENERATE: Final = _COMMON | {
    "prompt",
    "suffix",
    "system",
    "template",
    "context",
    "raw",
    "images",
}


def chat_body() -> dict[str, Any]:
    """The schema of a request to /api/chat."""
    return body_of(_CHAT)


def generate_body() -> dict[str, Any]:
    """The schema of a request to /api/generate."""
    return body_of(_GENERATE)


_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "max": "high"}
_OF_MESSAGE: Final = ("role", "content", "tool_calls", "tool_call_id", "tool_name")
_NO_EFFECT: Final = frozenset({"images", "name", "thinking"})
_OF_TOOL: Final = ("name", "description", "parameters", "strict")
_OF_CALL: Final = ("id", "name", "arguments")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    model: str
    "As the client names it."
    request: GenerateRequest | None
    "None: only load the model, or unload it."
    is_stream: bool
    keep_s: float | None
    "How long the model shall stay in memory, as `durations.keep_s`; 0 = unload it."
    headers: Mapping[str, str]
    "Of the answer: which fields nobody knows."


def model_of(fields: Mapping[str, Any]) -> str:
    """The model that a request names, as `model` or, from older clients, as `name`.

    Raises:
        InvalidParams: it names none.
    """
    name = fields.get("model") or fields.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_MODEL_CHARS:
        raise wrong("model", f"is required: a name of at most {MAX_MODEL_CHARS} characters")
    return name


def streams(fields: Mapping[str, Any]) -> bool:
    """Whether the answer comes line by line, as it does unless the client objects."""
    return flag("stream", fields.get("stream", True))


def chat(body: Mapping[str, Any]) -> Asked:
    """A request to /api/chat.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    messages = fields.get("messages", [])
    if not isinstance(messages, list):
        raise wrong("messages", "must be a list")
    unknown: set[str] = set()
    turns = [_message(f"messages[{n}]", each, unknown) for n, each in enumerate(messages)]
    tools = fields.get("tools", [])
    if not isinstance(tools, list):
        raise wrong("tools", "must be a list")
    made = {
        "messages": turns,
        "tools": [_function(f"tools[{n}]", each, _OF_TOOL) for n, each in enumerate(tools)],
    }
    return _asked(fields, _CHAT, made if turns else None, unknown)


def generate(body: Mapping[str, Any]) -> Asked:
    """A request to /api/generate; errors as in `chat`."""
    fields = present(body)
    for name in ("suffix", "template"):
        if fields.get(name):
            raise unsupported(name)
    prompt = _text("prompt", fields.get("prompt", ""))
    system = _text("system", fields.get("system", ""))
    images = _images("images", fields.get("images", []))
    raw = flag("raw", fields.get("raw", False))
    context = fields.get("context", [])
    if not isinstance(context, list) or any(type(n) is not int for n in context):
        raise wrong("context", "must be a list of token ids, as an answer has it")
    if not (prompt or images):
        return _asked(fields, _GENERATE, None)
    made: dict[str, Any]
    if system or images:
        for name, given in (("context", context), ("raw", raw)):
            if given:
                raise wrong(name, "cannot be combined with system or images")
        turns = [{"role": "system", "content": system}] if system else []
        made = {"messages": [*turns, {"role": "user", "content": prompt, "images": images}]}
    else:
        made = {"prompt": prompt, "raw": raw}
        if context:
            made["params"] = {"context": context}
    return _asked(fields, _GENERATE, made)


def _asked(
    fields: Mapping[str, Any],
    known: frozenset[str],
    made: dict[str, Any] | None,
    inner: Iterable[str] = (),
) -> Asked:
    given = fields.get("options", {})
    params = options.params_of(given)
    params |= _format(fields.get("format"))
    if "think" in fields and fields["think"] != "":
        think = fields["think"]
        params["think"] = think if isinstance(think, bool) else one_of("think", think, _EFFORTS)
    if flag("logprobs", fields.get("logprobs", False)):
        params["logprobs"] = True
    if top := fields.get("top_logprobs"):  # 0 asks for nothing
        params["top_logprobs"] = top
    for name in ("truncate", "shift"):
        flag(name, fields.get(name, False))
    model = model_of(fields)
    keep_s = durations.keep_s(fields.get("keep_alive"))
    unknown = {**fields, **{f"options.{name}": value for name, value in given.items()}}
    known |= {f"options.{name}" for name in options.KNOWN}
    headers = ignored_header(unknown, known, inner)
    if made is None:
        return Asked(model, None, streams(fields), keep_s, headers)
    params |= made.pop("params", {})
    try:
        request = GenerateRequest.model_validate({"model": model, **made, "params": params})
    except ValidationError as e:
        raise explained(e) from None
    if has_begun(request.messages or ()):  # Ollama goes on with such a turn
        own = request.params.model_copy(update={"continues": True})
        request = request.model_copy(update={"params": own})
    return Asked(model, request, streams(fields), keep_s, headers)


def _format(value: Any) -> dict[str, Any]:
    if value in (None, ""):
        return {}
    if value == "json" or isinstance(value, dict):
        return {"format": value}
    raise wrong("format", 'is neither "json" nor a JSON Schema')


def _message(where: str, value: Any, unknown: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(where, "must be an object")
    given = present(value)
    turn: dict[str, Any] = {name: given[name] for name in _OF_MESSAGE if name in given}
    unknown.update(f"messages.{key}" for key in given.keys() - {*_OF_MESSAGE} - _NO_EFFECT)
    # Ollama takes a text alone; programs made for OpenAI's dialect send parts here too.
    turn["content"] = parts_of(f"{where}.content", given.get("content", ""))
    calls = turn.pop("tool_calls", [])
    if not isinstance(calls, list):
        raise wrong(f"{where}.tool_calls", "must be a list")
    if calls:
        turn["tool_calls"] = [
            _function(f"{where}.tool_calls[{n}]", each, _OF_CALL) for n, each in enumerate(calls)
        ]
    if turn.get("role") == "tool" and isinstance(given.get("name"), str):
        turn.setdefault("tool_name", given["name"])  # as before Ollama 0.6.5
    if images := _images(f"{where}.images", given.get("images", [])):
        turn["images"] = images
    return turn


def _function(where: str, value: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """A tool or a call, without what only some clients add to it."""
    if not isinstance(value, dict):
        raise wrong(where, "must be an object")
    inner = value.get("function")
    if value.get("type", "function") != "function" or not isinstance(inner, dict):
        raise wrong(where, "has no function")
    fields = present({"id": value.get("id"), **inner})
    # PHP writes an empty map as a list.
    found = {name: fields[name] for name in names if name in fields and fields[name] != []}
    schema = found.get("parameters")
    if isinstance(schema, dict) and schema.get("properties") == []:
        found["parameters"] = {**schema, "properties": {}}
    return found


def _images(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise wrong(where, "must be a list of images in base64")
    for each in value:
        if ":" in each[:16]:  # base64 has none
            refuse_fetching(where, each)
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(where, "must be a string")
    return value


def harmless(request: GenerateRequest, refused: object) -> GenerateRequest:
    """The request without the parameters that a backend refused, if they ask for nothing that it
    would have to do: clients send these to every model.

    Raises:
        ValueError: one of them would change the answer.
    """
    params = request.params
    drops = {"num_ctx": True, "think": params.think is False or isinstance(params.think, str)}
    # The model's own context holds, and a prompt that exceeds it is refused anyway.
    drops["repeat_last_n"] = params.repeat_penalty in (None, 1)
    if not isinstance(refused, list) or not refused or not all(drops.get(n) for n in refused):
        raise ValueError("a parameter that changes the answer")
    update: dict[str, Any] = dict.fromkeys(refused)
    if isinstance(params.think, str) and "think" in refused:
        update["think"] = True  # as Ollama does with a model that cannot tell how long it thinks
    return request.model_copy(update={"params": params.model_copy(update=update)})
