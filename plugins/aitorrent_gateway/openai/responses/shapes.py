"""A response and its items, as /v1/responses answers them. No I/O."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aitorrent_gateway.openai.responses.tools import OfferedTools, custom_input
from aitorrent_gateway.openai.totals import node_part, reasoning_tokens
from aitorrentd.api import Chunk
from aitorrentd.api.models.logprobs import TokenLogprob, logprob_map
from aitorrentd.api.models.tools import ToolCall

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponseIdentity:
    """What all events of one response have in common."""

    ident: str
    created: int
    "Seconds since the epoch."
    model: str
    echo: Mapping[str, Any]
    "Fields of the request that the response repeats."


def new_id(prefix: str) -> str:
    """An id as OpenAI's clients know them."""
    return f"{prefix}_{secrets.token_hex(16)}"


def response_map(
    identity: ResponseIdentity,
    status: str,
    output: Sequence[Json] = (),
    last: Chunk | None = None,
    *,
    completed: int | None = None,
    error: Json | None = None,
) -> Json:
    """The response; `completed` is when, in seconds since the epoch. Nothing is stored, whatever
    the request says."""
    is_cut = status == "incomplete"
    shown: Json = {
        "id": identity.ident,
        "object": "response",
        "created_at": identity.created,
        "status": status,
        "background": False,
        "completed_at": completed,
        "error": error,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "model": identity.model,
        "output": list(output),
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "usage": None if last is None else _usage(last),
        **identity.echo,
    }
    return shown if last is None else {**shown, "x_aitorrent": node_part(last)}


def _usage(last: Chunk) -> Json:
    return {
        "input_tokens": last.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": last.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens([last]) or 0},
        "total_tokens": last.prompt_tokens + last.completion_tokens,
    }


def text_part(text: str = "", logprobs: Sequence[Json] = ()) -> Json:
    """A part of a message."""
    return {"type": "output_text", "annotations": [], "logprobs": list(logprobs), "text": text}


def message_item(ident: str, status: str, content: Sequence[Json] = ()) -> Json:
    """A message of the model."""
    return {
        "id": ident,
        "type": "message",
        "status": status,
        "content": list(content),
        "role": "assistant",
    }


def summary_part(text: str = "") -> Json:
    """A part of the thoughts."""
    return {"type": "summary_text", "text": text}


def reasoning_item(ident: str, summary: Sequence[Json] = ()) -> Json:
    """The thoughts of the model."""
    return {"id": ident, "type": "reasoning", "summary": list(summary)}


def call_item(call: ToolCall, tools: OfferedTools) -> Json:
    """A call of a tool, complete, with the names that the client gave."""
    origin, call_id = tools.origin(call.name), call.id or new_id("call")
    if origin.is_custom:
        item = {
            "id": new_id("ctc"),
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": call_id,
            "input": custom_input(call.arguments),
            "name": origin.name,
        }
    else:
        item = {
            "id": new_id("fc"),
            "type": "function_call",
            "status": "completed",
            "arguments": call.arguments,
            "call_id": call_id,
            "name": origin.name,
        }
    return item if origin.namespace is None else {**item, "namespace": origin.namespace}


def logprob_item(value: TokenLogprob) -> Json:
    """The log-probability of a token; here `bytes` is never null."""
    shown = logprob_map(value)
    return {**_with_bytes(shown), "top_logprobs": [_with_bytes(e) for e in shown["top_logprobs"]]}


def _with_bytes(entry: Json) -> Json:
    if entry["bytes"] is None:
        return {**entry, "bytes": list(entry["token"].encode("utf-8", "replace"))}
    return entry
