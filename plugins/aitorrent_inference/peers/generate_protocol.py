"""`/ai-torrent/1/generate`: the lines that peers exchange for an answer. No I/O.

The request is one JSON line `{"prompt"|"messages", "model", "params"}`, and with tools `tools`,
`tool_choice` and `parallel_tool_calls` as in the OpenAI API. An unknown field or
parameter is rejected by name, since ignoring it would change the answer. The answer is NDJSON as
streamed by Ollama's `/api/generate` (Ollama, docs/api.md, "Generate a completion"): lines with
`response`, or with `thinking` for reasoning before the answer, and with `logprobs` if requested;
then one with `done` true, the statistics, and where they apply `tool_calls`, `warning` and
`reasoning_tokens`. Calls of tools may come in parts, too (`call_lines`). An error is a final line
`{"error", "code"}`. Unknown answer fields are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aitorrent_inference.peers.call_lines import CallReader, WirePart, part_maps
from aitorrent_inference.peers.error_facts import ErrorFacts, facts_of
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    GenerateRequest,
    InvalidParams,
    Message,
    ProtocolError,
    SamplingParams,
    StageView,
    Unavailable,
    error_from_map,
)
from aitorrentd.api.models.call_parts import CallStep
from aitorrentd.api.models.inference import DoneReason
from aitorrentd.api.models.logprobs import logprob_map, read_logprobs
from aitorrentd.api.models.sampling import REST_OF_CONTEXT
from aitorrentd.api.models.tools import (
    MAX_CALLS,
    MAX_TOOLS,
    NamedTool,
    Tool,
    ToolCall,
    ToolChoice,
    call_map,
    tool_map,
)

PROTOCOL: Final = "/ai-torrent/1/generate"
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_ANSWER_CHARS: Final = 16 * 1024 * 1024
_MAX_ERROR_CHARS: Final = 2048
_MAX_WARNING_CHARS: Final = 1024
_MAX_STOP_CHARS: Final = 4096
_MAX_PROBLEMS: Final = 8
# Peer error codes that keep their meaning here; any other only means that the peer failed.
_CODES_KEPT: Final = frozenset({"busy", "not_found", "invalid_params"})

_ALIASES: Final = {"num_predict": "max_tokens", "repetition_penalty": "repeat_penalty"}
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
# "load" and "unload" answer an empty prompt; old servers send no reason.
_REASONS: Final = (None, "stop", "length", "tool_calls", "load", "unload")

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_TokenId = Annotated[int, Field(ge=0, lt=2**32)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: tuple[Message, ...] | None = Field(None, max_length=4096)
    params: dict[str, Any] | None = None
    raw: bool = False
    tools: tuple[Tool, ...] = Field((), max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = Field(None, description="an answer is always a stream")


class _Stage(BaseModel):
    model_config = ConfigDict(extra="ignore")

    peer: str = Field(max_length=128)
    start: _Count
    end: _Count


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore")

    error: str | None = None
    code: str = Field("", max_length=64)
    about: ErrorFacts = ErrorFacts()
    response: str = ""
    thinking: str = ""
    done: bool = False
    done_reason: str | None = Field(None, max_length=64)
    context: tuple[_TokenId, ...] | None = None
    prompt_eval_count: _Count = 0
    eval_count: _Count = 0
    total_duration: _Count | None = None
    load_duration: _Count | None = None
    prompt_eval_duration: _Count | None = None
    eval_duration: _Count | None = None
    stages: tuple[_Stage, ...] = Field((), max_length=1024)
    reasoning_tokens: _Count | None = None
    warning: str | None = None
    logprobs: Any = None
    tool_calls: tuple[ToolCall, ...] = Field((), max_length=MAX_CALLS)
    stop_text: str = Field("", max_length=_MAX_STOP_CHARS)
    tool_call_parts: tuple[WirePart, ...] = Field((), max_length=2 * MAX_CALLS)


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of an answer in nanoseconds, as Ollama reports them."""

    total: int
    prompt_eval: int
    evaluation: int


def _problems(error: ValidationError) -> str:
    """The first few problems, plus every unknown field and parameter by name."""
    found = []
    for item in error.errors(include_url=False, include_input=False)[:_MAX_PROBLEMS]:
        where = ".".join(str(part) for part in item["loc"])
        is_unknown = item["type"] == "extra_forbidden"
        text = item["msg"].removeprefix("Value error, ")
        text = "unknown; this node does not apply it" if is_unknown else text
        found.append(f"{where}: {text}" if where else text)
    return "; ".join(found)


def encoded(value: Mapping[str, Any]) -> bytes:
    """The value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def sampling_params(raw: Mapping[str, Any]) -> SamplingParams:
    """Parameters under our names, Ollama's (`num_predict` is `max_tokens`) or vLLM's
    (`repetition_penalty` is `repeat_penalty`).

    Ollama's forms of "unset" are accepted: a negative `seed`, `top_p` of 0, a single `stop` string
    instead of a list. A negative `num_predict` is the rest of the context.

    Raises:
        ValidationError: a value is out of range.
    """
    params = {k: v for k, v in raw.items() if v is not None}
    for theirs, ours in _ALIASES.items():
        if theirs in params:
            value = params.pop(theirs)
            params.setdefault(ours, value)
    for name in ("max_tokens", "seed", "top_k"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value < 0:
            del params[name]
            if name == "max_tokens":
                params[name] = REST_OF_CONTEXT
    if params.get("top_p") in (0, 0.0):
        del params["top_p"]
    return SamplingParams.model_validate(params)


def encode_request(request: GenerateRequest) -> bytes:
    """Encode the request as one line."""
    value: dict[str, Any] = {}
    if request.prompt is not None:
        value["prompt"] = request.prompt
        if request.raw:
            value["raw"] = True
    else:
        value["messages"] = [m.model_dump(exclude_defaults=True) for m in request.messages or ()]
    if request.model:
        value["model"] = request.model
    if request.tools:
        value["tools"] = [tool_map(tool) for tool in request.tools]
    if isinstance(request.tool_choice, NamedTool):
        value["tool_choice"] = {"name": request.tool_choice.name}
    elif request.tool_choice is not None:
        value["tool_choice"] = request.tool_choice
    if request.parallel_tool_calls is not None:
        value["parallel_tool_calls"] = request.parallel_tool_calls
    value["params"] = request.params.model_dump(exclude_none=True, exclude_defaults=True)
    return encoded(value)


def decode_request(line: bytes) -> GenerateRequest:
    """Decode a request from an untrusted line.

    Raises:
        ProtocolError: not JSON. InvalidParams: not a valid request, or unknown fields.
    """
    try:
        wire = _Request.model_validate_json(line)
        return GenerateRequest(
            model=wire.model or "",
            prompt=wire.prompt,
            messages=wire.messages or None,
            raw=wire.raw,
            tools=wire.tools,
            tool_choice=wire.tool_choice,
            parallel_tool_calls=wire.parallel_tool_calls,
            params=sampling_params(wire.params or {}),
        )
    except ValidationError as e:
        raise invalid_request(e) from None


def invalid_request(error: ValidationError) -> AitorrentError:
    """What to tell a peer about its request: that it is not JSON, or what is wrong in it."""
    is_json = all(item["type"] != "json_invalid" for item in error.errors(include_url=False))
    kind = InvalidParams if is_json else ProtocolError
    return kind(f"bad request: {_problems(error)}")


def reported(text: str, code: str, about: ErrorFacts | None = None) -> AitorrentError:
    """The error that a peer's line reports."""
    text = text[:_MAX_ERROR_CHARS]
    data = about.as_data() if about is not None else {}
    if code in _CODES_KEPT:
        return error_from_map({"code": code, "message": text, "data": data})
    # Nodes of the original ai-torrent send this text and no code.
    if text == "Too many requests":
        return error_from_map({"code": "busy", "message": text})
    layers = data.get("layers")
    return Unavailable(text, layers=layers) if layers else Unavailable(text)


def created_at(time_s: float) -> str:
    """RFC 3339 in UTC with microseconds; `time_s` is seconds since the epoch."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def text_line(model: str, time_s: float, chunk: Chunk, calls: Sequence[CallStep] = ()) -> bytes:
    """A line that carries a piece of the answer or of the reasoning before it, or parts of
    calls."""
    value: dict[str, Any] = {
        "model": model,
        "created_at": created_at(time_s),
        "response": chunk.text,
        "done": False,
    }
    if chunk.prompt_tokens:
        value["prompt_eval_count"] = chunk.prompt_tokens
    if chunk.thinking:
        value["thinking"] = chunk.thinking
    if chunk.logprobs:
        value["logprobs"] = [logprob_map(each) for each in chunk.logprobs]
    if calls:
        value["tool_call_parts"] = part_maps(calls)
    return encoded(value)


def last_line(model: str, time_s: float, chunk: Chunk, timing: Timing) -> bytes:
    """The line that ends an answer; `chunk` is the backend's last one, its text already sent.

    The session's context is omitted if it would make the line too long.
    """
    value: dict[str, Any] = {
        "model": model,
        "created_at": created_at(time_s),
        "response": "",
        "done": True,
        "done_reason": chunk.reason or "stop",
    }
    if chunk.context is not None:
        value["context"] = list(chunk.context)
    durations = {k: v for k, v in chunk.extra.items() if k in _DURATIONS and isinstance(v, int)}
    value["total_duration"] = durations.get("total_duration", timing.total)
    if "load_duration" in durations:
        value["load_duration"] = durations["load_duration"]
    value["prompt_eval_count"] = chunk.prompt_tokens
    evaluated = max(timing.prompt_eval - durations.get("load_duration", 0), 0)
    value["prompt_eval_duration"] = durations.get("prompt_eval_duration", evaluated)
    value["eval_count"] = chunk.completion_tokens
    value["eval_duration"] = durations.get("eval_duration", timing.evaluation)
    if (hidden := chunk.extra.get("reasoning_tokens")) and isinstance(hidden, int):
        value["reasoning_tokens"] = hidden
    stop = chunk.extra.get("stop_text")
    if stop and isinstance(stop, str) and len(stop) <= _MAX_STOP_CHARS:
        value["stop_text"] = stop
    if chunk.tool_calls:
        value["tool_calls"] = [call_map(call) for call in chunk.tool_calls]
    if chunk.warning:
        value["warning"] = chunk.warning[:_MAX_WARNING_CHARS]
    if chunk.stages:
        value["stages"] = [{"peer": s.peer, "start": s.start, "end": s.end} for s in chunk.stages]
    line = encoded(value)
    if len(line) > MAX_LINE_BYTES:
        value.pop("context", None)
        line = encoded(value)
    return line


def error_line(error: AitorrentError) -> bytes:
    """The line that reports why the answer failed or stopped."""
    line = {"error": error.message[:_MAX_ERROR_CHARS] or error.code, "code": error.code}
    facts = facts_of(error)
    return encoded({**line, "about": facts} if facts else line)


def _reason(reply: _Reply) -> DoneReason:
    match reply.done_reason:
        case "length":
            return "length"
        case "tool_calls" if reply.tool_calls:
            return "tool_calls"
    return "stop"


def decode_reply(line: bytes, calls: CallReader | None = None) -> Chunk | AitorrentError:
    """Decode an answer line into a chunk, or the error that the peer reports. `calls` has read the
    lines before.

    Raises:
        ProtocolError: malformed.
    """
    try:
        reply = _Reply.model_validate_json(line)
    except ValidationError as e:
        raise ProtocolError(f"bad answer line: {_problems(e)}") from None
    if reply.error is not None:
        return reported(reply.error, reply.code, reply.about)
    try:
        logprobs = read_logprobs(reply.logprobs)
    except ValueError as e:
        raise ProtocolError(f"bad answer line: {e}") from None
    calls = calls or CallReader()
    has_text = bool(reply.response or reply.thinking)
    whole, parts = calls.read(reply.tool_call_parts, has_text=has_text)
    if not reply.done:
        return Chunk(
            reply.response,
            tool_calls=whole,
            call_parts=parts,
            thinking=reply.thinking,
            logprobs=logprobs,
            prompt_tokens=reply.prompt_eval_count,
        )
    if reply.done_reason not in _REASONS:
        raise ProtocolError(f"bad answer line: done_reason {reply.done_reason!r}")
    extra: dict[str, Any] = {k: v for k in _DURATIONS if (v := getattr(reply, k)) is not None}
    if reply.reasoning_tokens:
        extra["reasoning_tokens"] = reply.reasoning_tokens
    if reply.stop_text:
        extra["stop_text"] = reply.stop_text
    return Chunk(
        reply.response,
        done=True,
        reason=_reason(reply),
        tool_calls=(*whole, *calls.rest(reply.tool_calls)),
        call_parts=parts,
        prompt_tokens=reply.prompt_eval_count,
        completion_tokens=reply.eval_count,
        context=reply.context,
        stages=tuple(StageView(s.peer, s.start, s.end) for s in reply.stages),
        extra=extra,
        thinking=reply.thinking,
        warning=(reply.warning or "")[:_MAX_WARNING_CHARS],
        logprobs=logprobs,
    )
