"""Answers in Ollama's shapes: the lines of a stream, and whole ones. No I/O.

A stream is one JSON object a line. Clients parse every line: none may be empty, and none a comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aitorrent_gateway.core.encoding import encoded, quoted
from aitorrent_gateway.openai.totals import node_part
from aitorrentd.api import Chunk, ProtocolError
from aitorrentd.api.faces.errors import HttpFault
from aitorrentd.api.models.logprobs import TokenLogprob, logprob_map
from aitorrentd.api.models.tools import ToolCall

NDJSON: Final = b"application/x-ndjson"
_DURATIONS: Final = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_NS: Final = 1e9


def line(value: dict[str, Any]) -> bytes:
    """One line of a stream."""
    return encoded(value) + b"\n"


def error_body(fault: HttpFault, request_id: str) -> bytes:
    """An error as Ollama's clients read it."""
    text = f"unauthorized: {fault.message}" if fault.status in (401, 403) else fault.message
    return json.dumps({"error": text}).encode()


def when(time_s: float) -> str:
    """A time as Ollama writes it."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


@dataclass(frozen=True, slots=True)
class Timing:
    """When an answer was asked for, began and ended, in seconds of one clock."""

    asked: float
    began: float
    ended: float

    def fields(self, last: Chunk) -> dict[str, Any]:
        """Counts and durations in ns: measured here, unless the backend told its own."""
        told = {name: last.extra.get(name) for name in _DURATIONS}
        load = told["load_duration"]
        load_s = load / _NS if type(load) is int else 0.0
        measured = {
            "total_duration": self.ended - self.asked,
            "load_duration": 0.0,
            "prompt_eval_duration": max(self.began - self.asked - load_s, 0.0),
            "eval_duration": self.ended - self.began,
        }
        spent = {
            name: value if type(value) is int else round(measured[name] * _NS)
            for name, value in told.items()
        }
        return {
            "total_duration": spent["total_duration"],
            "load_duration": spent["load_duration"],
            "prompt_eval_count": last.prompt_tokens,
            "prompt_eval_duration": spent["prompt_eval_duration"],
            "eval_count": last.completion_tokens,
            "eval_duration": spent["eval_duration"],
        }


class Shape:
    """Answers of /api/chat, or of /api/generate. `at` is when a line is written, by `when`."""

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._model = model
        self._is_chat = is_chat
        # The parts around a text that is encoded for each token.
        self._head = b'{"model":' + json.dumps(model).encode() + b',"created_at":"'
        self._text = b'","message":{"role":"assistant","content":' if is_chat else b'","response":'
        self._tail = b'},"done":false}\n' if is_chat else b',"done":false}\n'

    def empty(self, at: str) -> bytes:
        """A line that says nothing: Ollama's clients know no comments."""
        return self._plain("", at)

    def piece(self, chunk: Chunk, at: str) -> bytes:
        """The lines of a piece; none if there is nothing in it."""
        lines = b""
        if chunk.thinking:
            lines = line(self._with("", chunk.thinking, (), (), at) | {"done": False})
        if chunk.logprobs:
            value = self._with(chunk.text, "", (), chunk.logprobs, at)
            lines += line(value | {"done": False})
        elif chunk.text:
            lines += self._plain(chunk.text, at)
        if chunk.tool_calls:
            lines += line(self._with("", "", chunk.tool_calls, (), at) | {"done": False})
        return lines

    def last(self, chunk: Chunk, timing: Timing, at: str) -> bytes:
        """The line that ends an answer."""
        return line(self._with("", "", (), (), at) | self._end(chunk, timing))

    def whole(self, chunks: Iterable[Chunk], timing: Timing, at: str) -> dict[str, Any]:
        """An answer that is not streamed; the last chunk ends it."""
        pieces = list(chunks)
        value = self._with(
            "".join(chunk.text for chunk in pieces),
            "".join(chunk.thinking for chunk in pieces),
            [call for chunk in pieces for call in chunk.tool_calls],
            [each for chunk in pieces for each in chunk.logprobs],
            at,
        )
        return value | self._end(pieces[-1], timing)

    def loaded(self, reason: str, at: str) -> dict[str, Any]:
        """The answer to a request without a prompt: `load` or `unload`."""
        return self._with("", "", (), (), at) | {"done": True, "done_reason": reason}

    def _plain(self, text: str, at: str) -> bytes:
        return b"".join((self._head, at.encode(), self._text, quoted(text), self._tail))

    def _end(self, chunk: Chunk, timing: Timing) -> dict[str, Any]:
        # Ollama has no reason of its own for calls of tools.
        end: dict[str, Any] = {
            "done": True,
            "done_reason": "length" if chunk.reason == "length" else "stop",
        }
        if chunk.context is not None and not self._is_chat:
            end["context"] = list(chunk.context)
        end |= timing.fields(chunk)
        return end | {"x_aitorrent": node_part(chunk)}

    def _with(
        self,
        text: str,
        thinking: str,
        calls: Iterable[ToolCall],
        logprobs: Iterable[TokenLogprob],
        at: str,
    ) -> dict[str, Any]:
        value: dict[str, Any] = {"model": self._model, "created_at": at}
        said: dict[str, Any] = {"role": "assistant", "content": text}
        if not self._is_chat:
            said = {"response": text}
        if thinking:
            said["thinking"] = thinking
        if made := [_call(n, call) for n, call in enumerate(calls)]:
            said["tool_calls"] = made
        value |= {"message": said} if self._is_chat else said
        if shown := [logprob_map(each) for each in logprobs]:
            value["logprobs"] = shown
        return value


def _call(index: int, call: ToolCall) -> dict[str, Any]:
    """A call, with its arguments as an object.

    Raises:
        ProtocolError: the model's arguments are none.
    """
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ProtocolError(f"the model called {call.name} with arguments that are no JSON object")
    function = {"index": index, "name": call.name, "arguments": arguments}
    return {"id": call.id, "function": function} if call.id else {"function": function}
