"""Requests of Anthropic's clients, as requests of this node. No I/O.

A field that changes the answer is honoured or refused with its name. A field that only tells how
Anthropic's service handles a request is accepted. Fields that nobody knows are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.anthropic import tools
from aitorrent_gateway.anthropic.conversation import conversation
from aitorrent_gateway.core.documents import body_of
from aitorrent_gateway.core.fields import (
    explained,
    flag,
    ignored_header,
    one_of,
    present,
    seed_of,
    text_of,
    top_p_of,
    unsupported,
    wrong,
)
from aitorrentd.api import GenerateRequest, InvalidParams

NAMES: Final = {
    "format": "output_config",
    "think": "thinking",
    "images": "messages",
    "continues": "messages",
    "stop": "stop_sequences",
    "parallel_tool_calls": "tool_choice",
}
"What Anthropic's clients call fields of this node."
_SAME: Final = ("temperature", "top_p", "top_k", "max_tokens")
_NO_EFFECT: Final = frozenset(
    {
        "betas",
        "cache_control",
        "context_management",
        "diagnostics",
        "fallbacks",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
_ELSEWHERE: Final = ("compaction", "container", "mcp_servers")
"Fields with which Anthropic's servers would run something, or sum up a conversation."
NO_THREADS: Final = "thread_unsupported_request"
"""The error on which the SDKs send the whole conversation. Their tool runners want the server to
keep it unless it says so, and send only the results of the tools then."""
_KNOWN: Final = frozenset(
    {*_SAME, *_NO_EFFECT, *_ELSEWHERE, "model", "messages", "system", "stop_sequences", "stream"}
    | {"seed", "thread"}
    | {"tools", "tool_choice", "thinking", "output_config", "output_format"}
)
# Whether the model shall think; None leaves it to the model.
_THINKING: Final = {"enabled": True, "disabled": False, "adaptive": None, "between_tools": None}


def message_body() -> dict[str, Any]:
    """The schema of a request to /v1/messages."""
    return body_of(_KNOWN, _SAME, ["messages"])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for."""

    request: GenerateRequest
    is_stream: bool
    shows_thinking: bool
    "Whether the client wants to see what the model thinks."
    headers: Mapping[str, str]
    "Of the answer: what is left out."


def asked(body: Mapping[str, Any]) -> Asked:
    """A request to /v1/messages or /v1/messages/count_tokens.

    Raises:
        InvalidParams: with `param` in its data.
    """
    fields = present(body)
    for name in _ELSEWHERE:
        if fields.get(name):
            raise unsupported(name)
    if fields.get("thread"):
        text = "is not supported by this server; send the whole conversation without it"
        raise wrong("thread", text, NO_THREADS)
    said = conversation(fields.get("system"), fields.get("messages"))
    offered = tools.offered(fields.get("tools", []), said)
    made: dict[str, Any] = {"messages": said.turns, "tools": offered}
    if "tool_choice" in fields:
        made |= tools.choice(fields["tool_choice"], offered)
    params: dict[str, Any] = {name: fields[name] for name in _SAME if name in fields}
    if "top_p" in params:
        params["top_p"] = top_p_of(params["top_p"])
    if "seed" in fields:  # Anthropic has none; the same answer again is worth an extension
        params["seed"] = seed_of(fields["seed"])
    if stops := _stops(fields.get("stop_sequences", [])):
        params["stop"] = stops
    params |= _format(fields)
    think, shows = _thinking(fields.get("thinking"))
    if think is not None:
        params["think"] = think
    if said.turns[-1].role == "assistant":
        params["continues"] = True
    model = text_of("model", fields.get("model", ""))
    try:
        request = GenerateRequest.model_validate({"model": model, "params": params, **made})
    except ValidationError as e:
        raise _renamed(explained(e)) from None
    stream = flag("stream", fields.get("stream", False))
    return Asked(request, stream, shows, ignored_header(fields, _KNOWN, said.dropped))


def _stops(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise wrong("stop_sequences", "must be a list of strings")
    return [each for each in value if each]


def _format(fields: Mapping[str, Any]) -> dict[str, Any]:
    config = fields.get("output_config", {})
    if not isinstance(config, dict):
        raise wrong("output_config", "must be an object")
    name, value = "output_config.format", config.get("format")
    if value is None:  # the name during the beta
        name, value = "output_format", fields.get("output_format")
    if value is None:
        return {}
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(value, dict) or value.get("type") != "json_schema":
        raise wrong(name, "must be of the type json_schema")
    if not isinstance(schema, dict):
        raise wrong(f"{name}.schema", "must be an object")
    return {"format": schema}


def _thinking(value: object) -> tuple[bool | None, bool]:
    """(whether the model shall think, whether the client wants to see it)."""
    if value is None:
        return None, False
    if not isinstance(value, dict):
        raise wrong("thinking", "must be an object")
    think = one_of("thinking.type", value.get("type"), _THINKING)
    return think, think is not False and value.get("display") != "omitted"


def _renamed(error: InvalidParams) -> InvalidParams:
    param = error.data.get("param")
    if isinstance(param, str):
        head = param.partition("[")[0]
        if head in NAMES:
            name = NAMES[head] + param[len(head) :]
            return InvalidParams(name + error.message.removeprefix(param), param=name)
    return error
