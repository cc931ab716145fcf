"""Requests to /v1/responses, as one of this node. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from aitorrent_gateway.core.documents import body_of
from aitorrent_gateway.core.fields import flag, ignored_header, one_of, present, unsupported, wrong
from aitorrent_gateway.openai.requests import (
    EFFORTS,
    NO_EFFECT,
    SAME,
    format_of,
    request_of,
    sampling,
    schema_of,
)
from aitorrent_gateway.openai.responses.items import Turns
from aitorrent_gateway.openai.responses.tools import OfferedTools, read_tools
from aitorrentd.api import GenerateRequest, InvalidParams

_LOGPROBS: Final = "message.output_text.logprobs"
_KNOWN: Final = NO_EFFECT | {
    "background",
    "client_metadata",
    "context_management",
    "conversation",
    "frequency_penalty",
    "include",
    "input",
    "instructions",
    "logit_bias",
    "max_output_tokens",
    "max_tool_calls",
    "min_p",
    "model",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt",
    "reasoning",
    "repeat_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "truncation",
}


def response_body() -> dict[str, Any]:
    """The schema of a request to /v1/responses."""
    return body_of(_KNOWN, SAME, ["input"])


# What needs a server that keeps something, with the values that ask for nothing.
_NOTHING: Final[dict[str, tuple[Any, ...]]] = {
    "background": (False,),
    "conversation": (),
    "prompt": (),
}
_ECHOED: Final = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
)


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """What a client asks for."""

    request: GenerateRequest
    is_stream: bool
    tools: OfferedTools
    echo: Mapping[str, Any]
    "Fields of the request that the response repeats."
    headers: Mapping[str, str]
    "Of the answer: which fields nobody knows."


def response(body: Mapping[str, Any]) -> AskedResponse:
    """A request to /v1/responses.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    for name, harmless in _NOTHING.items():
        if name in fields and fields[name] not in harmless:
            raise unsupported(name)
    if "previous_response_id" in fields:
        raise InvalidParams(
            "previous_response_id: responses are not stored; send the whole conversation in input",
            param="previous_response_id",
            http_code="previous_response_not_found",
        )
    unknown: set[str] = set()
    turns = Turns(unknown)
    if "instructions" in fields:
        turns.instruct(fields["instructions"])
    turns.add(fields.get("input"))
    offered, choice = read_tools(fields, unknown, turns.tools)
    made = {"messages": turns.turns, "params": _params(fields), **choice}
    try:
        request = request_of(fields, made)
    except InvalidParams as e:
        param = e.data.get("param")
        if isinstance(param, str) and param.startswith("messages"):  # items are no turns
            raise InvalidParams(e.message.replace("messages", "turn", 1), param="input") from None
        if param == "max_tokens":
            name = "max_output_tokens"
            raise InvalidParams(e.message.replace(param, name, 1), param=name) from None
        raise
    return AskedResponse(
        request,
        flag("stream", fields.get("stream", False)),
        offered,
        echoed(fields),
        ignored_header(fields, _KNOWN, unknown),
    )


def _params(fields: Mapping[str, Any]) -> dict[str, Any]:
    params = sampling(fields)
    if "max_output_tokens" in fields:
        params["max_tokens"] = fields["max_output_tokens"]
    thinking = _object("reasoning", fields.get("reasoning", {}))
    if (effort := thinking.get("effort")) is not None:
        params["think"] = one_of("reasoning.effort", effort, EFFORTS)
    shape = _object("text", fields.get("text", {})).get("format")
    if shape is not None:
        kind = shape.get("type") if isinstance(shape, dict) else None
        name = "text.format"
        if kind == "json_schema":
            params["format"] = schema_of(name, shape)
        else:
            params |= format_of(name, kind)
    include = fields.get("include", [])
    if not isinstance(include, list):
        raise wrong("include", "must be a list")
    top = fields.get("top_logprobs")
    if _LOGPROBS in include or top:
        params["logprobs"] = True
        if top:
            params["top_logprobs"] = top
    return params


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise wrong(name, "must be an object")
    return value


def echoed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What a response repeats of its request."""
    thinking = _object("reasoning", fields.get("reasoning", {}))
    return {
        **{name: fields.get(name) for name in _ECHOED},
        "metadata": fields.get("metadata", {}),
        "parallel_tool_calls": fields.get("parallel_tool_calls", True),
        "reasoning": {"effort": thinking.get("effort"), "summary": thinking.get("summary")},
        "text": {"format": {"type": "text"}, **present(_object("text", fields.get("text", {})))},
        "tool_choice": fields.get("tool_choice", "auto"),
        "tools": fields.get("tools", []),
        "top_logprobs": fields.get("top_logprobs", 0),
        "truncation": fields.get("truncation", "disabled"),
    }
