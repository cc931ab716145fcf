"""Answers of /v1/chat/completions: chunks of a stream, and whole ones. No I/O.

Clients depend on details: the id and time are the same in all chunks; `finish_reason` is null
until the last, which has an empty delta; a chunk with the usage has no choices; `[DONE]` follows
only an answer that is whole.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aitorrent_gateway.core.encoding import encoded, quoted
from aitorrent_gateway.openai.totals import node_part, usage_of
from aitorrentd.api import AitorrentError, Chunk
from aitorrentd.api.faces.errors import fault_of
from aitorrentd.api.models.call_parts import CallStep, CallSteps
from aitorrentd.api.models.logprobs import TokenLogprob, logprob_map
from aitorrentd.api.models.tools import ToolCall, call_map

DONE: Final = b"data: [DONE]\n\n"
_FINGERPRINT: Final = "aitorrentd"


def failure(error: AitorrentError) -> bytes:
    """The event that ends a stream that failed; no `[DONE]` follows."""
    return b"data: " + fault_of(error).body() + b"\n\n"


@dataclass(frozen=True, slots=True)
class Identity:
    """What all parts of one answer have in common."""

    ident: str
    created: int
    "Seconds since the epoch."
    model: str
    with_logprobs: bool = False


class Choice(Protocol):
    """One choice of an answer, and how it looks."""

    def first(self) -> bytes:
        """The events before any text."""

    def piece(self, chunk: Chunk) -> bytes:
        """The events of a chunk, also of the last if it has text."""

    def last(self, chunk: Chunk) -> bytes:
        """The event with the reason of the end."""

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk for `whole`."""

    def whole(self, last: Chunk) -> dict[str, Any]:
        """The choice in an answer that is not streamed."""


@dataclass(slots=True)
class Gathered:
    """The parts of a choice that is not streamed."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    steps: CallSteps = field(default_factory=CallSteps)

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk; at the last, also a call that was cut off."""
        self.text.append(chunk.text)
        self.thinking.append(chunk.thinking)
        self.logprobs += chunk.logprobs
        before, after = self.steps.around(chunk)
        cut = self.steps.cut() if chunk.done else None
        steps = (*before, *after, *([cut] if cut is not None else ()))
        self.calls += [step.whole for step in steps if step.whole is not None]


class ChatChoice:
    """A choice of /v1/chat/completions."""

    prefix: Final = "chatcmpl-"
    kind: Final = "chat.completion"
    chunk_kind: Final = "chat.completion.chunk"

    def __init__(self, identity: Identity, index: int, *, with_usage: bool) -> None:
        self._index, self._with_logprobs = index, identity.with_logprobs
        self._null = b',"usage":null' if with_usage else b""
        # The parts around a text that is encoded for each token.
        self._head = head(self.chunk_kind, identity)
        start = self._head + b'[{"index":%d,"delta":' % index
        self._delta = start
        self._text = start + b'{"content":'
        self._thinking = start + b'{"reasoning_content":'
        self._end = b',"finish_reason":null}]' + self._null + b"}\n\n"
        self._tail = b'},"logprobs":null' + self._end
        self._steps = CallSteps()
        self._gathered = Gathered()

    def first(self) -> bytes:
        """The event before any text."""
        return self._delta + b'{"role":"assistant","content":""' + self._tail

    def piece(self, chunk: Chunk) -> bytes:
        """The events of a piece; none if it has nothing for clients."""
        if chunk.tool_calls or chunk.call_parts:
            before, after = self._steps.around(chunk)
            events = b"".join(map(self._call, before)) + self._words(chunk)
            return events + b"".join(map(self._call, after))
        return self._words(chunk)

    def _words(self, chunk: Chunk) -> bytes:
        events, tail = b"", self._tail
        if chunk.thinking:
            events += self._thinking + quoted(chunk.thinking) + self._tail
        if self._with_logprobs and chunk.logprobs:
            tail = b'},"logprobs":' + encoded(logprobs_of(chunk.logprobs)) + self._end
        if chunk.text or tail is not self._tail:
            events += self._text + quoted(chunk.text) + tail
        return events

    def _call(self, step: CallStep) -> bytes:
        """A call begins with its name; its arguments follow, as clients put them together."""
        parts: list[dict[str, Any]] = []
        if step.begins:
            begun = call_shape(ToolCall(id=step.id, name=step.name))
            begun["function"] = {"name": step.name, "arguments": ""}
            parts.append({"index": step.index, **begun})
        if step.arguments:
            parts.append({"index": step.index, "function": {"arguments": step.arguments}})
        return b"".join(
            self._delta + b'{"tool_calls":[' + encoded(part) + b"]" + self._tail for part in parts
        )

    def last(self, chunk: Chunk) -> bytes:
        """The event with the reason of the end."""
        reason = ended(chunk, has_calls=self._steps.count > 0)
        choice = {"index": self._index, "delta": {}, "logprobs": None, "finish_reason": reason}
        part = b',"x_aitorrent":' + encoded(node_part(chunk))
        return self._head + encoded([choice]) + self._null + part + b"}\n\n"

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk for `whole`."""
        self._gathered.add(chunk)

    def whole(self, last: Chunk) -> dict[str, Any]:
        """The choice in an answer that is not streamed."""
        found = self._gathered
        text, thinking = "".join(found.text), "".join(found.thinking)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not found.calls else None,
            "refusal": None,
        }
        if thinking:
            message["reasoning_content"] = thinking
        if found.calls:
            message["tool_calls"] = [call_shape(call) for call in found.calls]
        return {
            "index": self._index,
            "message": message,
            "logprobs": logprobs_of(found.logprobs) if self._with_logprobs else None,
            "finish_reason": ended(last, has_calls=bool(found.calls)),
        }


def ended(last: Chunk, *, has_calls: bool) -> str | None:
    """Why a choice ended: some servers say `stop` after calls of tools, on which agents would
    end."""
    return "tool_calls" if has_calls and last.reason == "stop" else last.reason


def call_shape(call: ToolCall) -> dict[str, Any]:
    """A call of a tool, with an id in any case: clients send it back with the result."""
    shape = call_map(call)
    return shape if call.id else {**shape, "id": f"call_{secrets.token_hex(12)}"}


def logprobs_of(values: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a choice."""
    return {"content": [logprob_map(value) for value in values], "refusal": None}


def head(kind: str, identity: Identity) -> bytes:
    """The start of every event, up to the choices."""
    return b"data: " + encoded(_common(kind, identity))[:-1] + b',"choices":'


def usage_event(kind: str, identity: Identity, lasts: Sequence[Chunk], each: int) -> bytes:
    """The event with the usage, which has no choices; there are `each` answers to a prompt."""
    return head(kind, identity) + b'[],"usage":' + encoded(usage_of(lasts, each)) + b"}\n\n"


def whole_answer(
    kind: str,
    identity: Identity,
    choices: Sequence[dict[str, Any]],
    lasts: Sequence[Chunk],
    each: int,
) -> dict[str, Any]:
    """An answer that is not streamed, with `each` choices for a prompt."""
    return {
        **_common(kind, identity),
        "choices": list(choices),
        "usage": usage_of(lasts, each),
        "x_aitorrent": node_part(lasts[0]),
    }


def _common(kind: str, identity: Identity) -> dict[str, Any]:
    return {
        "id": identity.ident,
        "object": kind,
        "created": identity.created,
        "model": identity.model,
        "system_fingerprint": _FINGERPRINT,
    }
