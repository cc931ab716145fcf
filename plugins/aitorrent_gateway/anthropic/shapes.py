"""Answers in Anthropic's shapes: the events of a stream, and whole messages. No I/O.

Clients depend on details: a block is started before it grows, and stopped before the next one; the
indices of blocks rise by one; the reason and the usage come in `message_delta`; `message_stop`
follows only an answer that is whole. Some backends tell the length of the prompt only
at the end: then the usage of `message_start` is zero. That of `message_delta` is whole.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from aitorrent_gateway.core.encoding import encoded, quoted
from aitorrentd.api import Chunk
from aitorrentd.api.models.call_parts import CallStep, CallSteps
from aitorrentd.api.models.tools import ToolCall

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'
_SIGNATURE: Final = "unsigned"
"Of thoughts: clients want one, and send it back."
_IDENT: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_EMPTY: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one answer have in common."""

    ident: str
    model: str


class MessageStream:
    """The events of one answer."""

    def __init__(
        self, identity: Identity, *, shows_thinking: bool, stops: Collection[str] = ()
    ) -> None:
        """`stops` are the stop sequences that the client asked for."""
        self._identity = identity
        self._stops = stops
        self._shows_thinking = shows_thinking
        self._index = 0
        "Of the block that is open, or comes next."
        self._open = ""
        "Its type; empty if none is open."
        self._text = b""
        self._steps = CallSteps()

    def first(self, prompt_tokens: int = 0) -> bytes:
        """The event before the first block, with the length of the prompt if it is known. A ping
        follows, as at Anthropic."""
        message = _message(self._identity, [], prompt_tokens)
        return _event("message_start", message=message) + PING

    def piece(self, chunk: Chunk) -> bytes:
        """The events of a chunk; none if it has nothing for the client."""
        if chunk.tool_calls or chunk.call_parts:
            before, after = self._steps.around(chunk)
            events = b"".join(map(self._call, before)) + self._words(chunk)
            return events + b"".join(map(self._call, after))
        return self._words(chunk)

    def _words(self, chunk: Chunk) -> bytes:
        events = b""
        if chunk.thinking and self._shows_thinking:
            events += self._opened("thinking")
            delta = {"type": "thinking_delta", "thinking": chunk.thinking}
            events += _event("content_block_delta", index=self._index, delta=delta)
        if chunk.text:
            if self._open != "text":
                events += self._opened("text")
            events += self._text + quoted(chunk.text) + b"}}\n\n"
        return events

    def last(self, chunk: Chunk) -> bytes:
        """The events of the end, after the piece of the last chunk."""
        events = b"" if self._index or self._open else self._opened("text")
        delta = _end(chunk, self._stops, has_called=self._steps.count > 0)
        return (
            events
            + self._closed()
            + _event("message_delta", delta=delta, usage=usage_of(chunk))
            + _event("message_stop")
        )

    def _call(self, step: CallStep) -> bytes:
        events, more = b"", step.arguments
        if step.begins:
            events = self._closed()
            block = _tool_use(step.whole or ToolCall(id=step.id, name=step.name))
            if step.whole is not None:
                more = json.dumps(block["input"])
            self._open = "tool_use"
            block["input"] = {}
            events += _event("content_block_start", index=self._index, content_block=block)
        if more:
            delta = {"type": "input_json_delta", "partial_json": more}
            events += _event("content_block_delta", index=self._index, delta=delta)
        return events + self._closed() if step.whole is not None else events

    def _opened(self, kind: str) -> bytes:
        """The events that open a block of this type, unless it is open."""
        if self._open == kind:
            return b""
        events = self._closed()
        self._open = kind
        if kind == "text":  # the part before a text that is encoded for each token
            head = {"type": "content_block_delta", "index": self._index}
            self._text = b"event: content_block_delta\ndata: " + encoded(head)[:-1]
            self._text += b',"delta":{"type":"text_delta","text":'
        block = _EMPTY[kind]
        return events + _event("content_block_start", index=self._index, content_block=block)

    def _closed(self) -> bytes:
        """The events that close the block that is open, if one is."""
        if not self._open:
            return b""
        events = b""
        if self._open == "thinking":
            delta = {"type": "signature_delta", "signature": _SIGNATURE}
            events = _event("content_block_delta", index=self._index, delta=delta)
        events += _event("content_block_stop", index=self._index)
        self._open = ""
        self._index += 1
        return events


def whole(
    identity: Identity,
    chunks: Sequence[Chunk],
    *,
    shows_thinking: bool,
    stops: Collection[str] = (),
) -> dict[str, Any]:
    """An answer that is not streamed, as `MessageStream`."""
    last = chunks[-1]
    content = list[dict[str, Any]]()
    steps = CallSteps()
    for chunk in chunks:
        before, after = steps.around(chunk)
        content += _tools_used(before)
        if chunk.thinking and shows_thinking:
            block = _grown(content, "thinking")
            block["thinking"] += chunk.thinking
            block["signature"] = _SIGNATURE
        if chunk.text:
            _grown(content, "text")["text"] += chunk.text
        content += _tools_used(after)
    if (cut := steps.cut()) is not None:
        content += _tools_used([cut])
    made = _message(identity, content or [dict(_EMPTY["text"])])
    return made | _end(last, stops, has_called=steps.count > 0) | {"usage": usage_of(last)}


def usage_of(last: Chunk) -> dict[str, Any]:
    """The usage of an answer that ended with this chunk."""
    cached = last.extra.get("cached_tokens")
    cached = min(cached, last.prompt_tokens) if isinstance(cached, int) and cached > 0 else 0
    usage: dict[str, Any] = {
        "input_tokens": last.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": last.completion_tokens,
    }
    hidden = last.extra.get("reasoning_tokens")
    if isinstance(hidden, int):
        usage["output_tokens_details"] = {"thinking_tokens": hidden}
    return usage


def _grown(content: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The last block, if it is of this type; else a new one."""
    if not content or content[-1]["type"] != kind:
        content.append(dict(_EMPTY[kind]))
    return content[-1]


def _message(
    identity: Identity, content: list[dict[str, Any]], prompt_tokens: int = 0
) -> dict[str, Any]:
    return {
        "id": identity.ident,
        "type": "message",
        "role": "assistant",
        "model": identity.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(Chunk("", prompt_tokens=prompt_tokens)),
    }


def _end(last: Chunk, stops: Collection[str], *, has_called: bool) -> dict[str, Any]:
    """Why the answer ended. Servers say `stop` also after calls; clients act on `tool_use`. Only
    some backends say which text stopped it."""
    reason, stop = _REASONS[last.reason or "stop"], None
    if has_called and reason == "end_turn":
        reason = "tool_use"
    elif reason == "end_turn" and last.extra.get("stop_text") in stops:
        reason, stop = "stop_sequence", last.extra["stop_text"]
    return {"stop_reason": reason, "stop_sequence": stop}


def _tools_used(steps: Sequence[CallStep]) -> list[dict[str, Any]]:
    """The calls that end with these steps."""
    ended = ((step.whole, step.is_cut) for step in steps)
    return [_tool_use(call, is_cut=is_cut) for call, is_cut in ended if call is not None]


def _tool_use(call: ToolCall, *, is_cut: bool = False) -> dict[str, Any]:
    """A call. Arguments that are no object are kept as Anthropic advises, so that the client's
    check of them tells the model. Of those that are cut off, what there is, as the clients make it
    of a stream."""
    try:
        arguments = from_json(call.arguments, allow_partial=is_cut)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"INVALID_JSON": call.arguments}
    ident = call.id if _IDENT.fullmatch(call.id) else f"toolu_{secrets.token_hex(12)}"
    return {"type": "tool_use", "id": ident, "name": call.name, "input": arguments}


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encoded({"type": kind, **fields}) + b"\n\n"
