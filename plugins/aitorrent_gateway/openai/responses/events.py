"""The events of a streamed response, in OpenAI's order, and the response that they amount to.
No I/O.

One item is open at a time: thoughts, a message, or a call of a tool. Each event has a number.
"""

from __future__ import annotations

from typing import Any, Final

from aitorrent_gateway.core.encoding import encoded, quoted
from aitorrent_gateway.openai.responses.shapes import (
    Json,
    ResponseIdentity,
    call_item,
    logprob_item,
    message_item,
    new_id,
    reasoning_item,
    response_map,
    summary_part,
    text_part,
)
from aitorrent_gateway.openai.responses.tools import OfferedTools, custom_input
from aitorrentd.api import AitorrentError, Chunk
from aitorrentd.api.faces.errors import fault_of
from aitorrentd.api.models.call_parts import CallStep, CallSteps
from aitorrentd.api.models.tools import ToolCall

_ERROR_CODES: Final = {"busy": "rate_limit_exceeded"}


class ResponseEvents:
    """Makes the events of one response."""

    def __init__(self, identity: ResponseIdentity, tools: OfferedTools) -> None:
        self._identity, self._tools = identity, tools
        self._number = 0
        self._output: list[Json] = []
        "Complete items."
        self._open: _Text | _Thoughts | _Call | None = None
        self._steps = CallSteps()

    def begin(self) -> bytes:
        """The events before any output."""
        shown = response_map(self._identity, "in_progress")
        return self.event("response.created", response=shown) + self.event(
            "response.in_progress", response=shown
        )

    def piece(self, chunk: Chunk) -> bytes:
        """The events of a piece of the answer, also of the last; none if it has nothing for
        clients."""
        before, after = self._steps.around(chunk)
        events = b"".join(map(self._call, before))
        if chunk.thinking:
            if not isinstance(self._open, _Thoughts):
                events += self._close("completed")
                self._open = _Thoughts(self, len(self._output))
                events += self._open.begin()
            events += self._open.add(chunk.thinking)
        if chunk.text or chunk.logprobs:
            if not isinstance(self._open, _Text):
                events += self._close("completed")
                self._open = _Text(self, len(self._output))
                events += self._open.begin()
            events += self._open.add(chunk)
        return events + b"".join(map(self._call, after))

    def end(self, last: Chunk, now: int) -> tuple[bytes, Json]:
        """(the events after all output, the response); `now` in seconds since the epoch."""
        status = "incomplete" if last.reason == "length" else "completed"
        events = b""
        if not self._output and self._open is None:  # clients look for a message
            self._open = _Text(self, 0)
            events = self._open.begin()
        cut = self._steps.cut()
        events += self._close("incomplete" if cut is not None else status)
        completed = now if status == "completed" else None
        shown = response_map(self._identity, status, self._output, last, completed=completed)
        return events + self.event(f"response.{status}", response=shown), shown

    def fail(self, error: AitorrentError) -> bytes:
        """The event that ends a response that failed."""
        fault = fault_of(error)
        code = _ERROR_CODES.get(fault.code)
        if code is None:
            code = "server_error" if fault.status >= 500 else fault.code
        told = {"code": code, "message": fault.message}
        shown = response_map(self._identity, "failed", self._output, error=told)
        return self.event("response.failed", response=shown)

    def event(self, kind: str, **fields: Any) -> bytes:
        """One event."""
        body = encoded({"type": kind, "sequence_number": self.number(), **fields})
        return b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n"

    def number(self) -> int:
        """The number of the next event, which is used up."""
        self._number += 1
        return self._number - 1

    def _close(self, status: str) -> bytes:
        if self._open is None:
            return b""
        events, item = self._open.end(status)
        self._output.append(item)
        self._open = None
        return events

    def _call(self, step: CallStep) -> bytes:
        events = b""
        if step.begins:
            events = self._close("completed")
            self._open = _Call(self, len(self._output), step, self._tools)
            events += self._open.begin()
        if isinstance(self._open, _Call):
            events += self._open.add(step.arguments)
        return events + self._close("completed") if step.whole is not None else events


class _Call:
    """A call of a tool that is not complete."""

    def __init__(
        self, events: ResponseEvents, index: int, step: CallStep, tools: OfferedTools
    ) -> None:
        self._events, self._index = events, index
        self._item = call_item(ToolCall(id=step.id, name=step.name), tools)
        self._is_custom = self._item["type"] == "custom_tool_call"
        self._key = "input" if self._is_custom else "arguments"
        self._kind = "custom_tool_call_input" if self._is_custom else "function_call_arguments"
        self._place = {"item_id": self._item["id"], "output_index": index}
        self._arguments: list[str] = []

    def begin(self) -> bytes:
        item = {**self._item, "status": "in_progress", self._key: ""}
        return self._events.event("response.output_item.added", output_index=self._index, item=item)

    def add(self, arguments: str) -> bytes:
        self._arguments.append(arguments)
        # The text of a custom tool is only known when the arguments are complete.
        return b"" if self._is_custom or not arguments else self._delta(arguments)

    def end(self, status: str) -> tuple[bytes, Json]:
        arguments = "".join(self._arguments)
        text = custom_input(arguments) if self._is_custom else arguments
        item, event = {**self._item, "status": status, self._key: text}, self._events.event
        named = {} if self._is_custom else {"name": item["name"]}
        events = (
            self._delta(text) if self._is_custom and text else b"",
            event(f"response.{self._kind}.done", **self._place, **named, **{self._key: text}),
            event("response.output_item.done", output_index=self._index, item=item),
        )
        return b"".join(events), item

    def _delta(self, text: str) -> bytes:
        return self._events.event(f"response.{self._kind}.delta", **self._place, delta=text)


class _Text:
    """A message of the model that is not complete."""

    def __init__(self, events: ResponseEvents, index: int) -> None:
        self._events, self._index, self._ident = events, index, new_id("msg")
        self._text: list[str] = []
        self._logprobs: list[Json] = []
        self._place = {"item_id": self._ident, "output_index": index, "content_index": 0}
        # The parts around a text that is encoded for each token.
        kind = b"response.output_text.delta"
        self._head = b"event: %b\ndata: " % kind + encoded({"type": kind.decode(), **self._place})
        self._head = self._head[:-1] + b',"delta":'

    def begin(self) -> bytes:
        item = message_item(self._ident, "in_progress")
        return self._events.event(
            "response.output_item.added", output_index=self._index, item=item
        ) + self._events.event("response.content_part.added", **self._place, part=text_part())

    def add(self, chunk: Chunk) -> bytes:
        self._text.append(chunk.text)
        logprobs = [logprob_item(value) for value in chunk.logprobs]
        self._logprobs += logprobs
        number = self._events.number()
        tail = b',"logprobs":%b,"sequence_number":%d}\n\n' % (encoded(logprobs), number)
        return self._head + quoted(chunk.text) + tail

    def end(self, status: str) -> tuple[bytes, Json]:
        text = "".join(self._text)
        part = text_part(text, self._logprobs)
        item = message_item(self._ident, status, [part])
        done = {"text": text, "logprobs": self._logprobs}
        event = self._events.event
        events = (
            event("response.output_text.done", **self._place, **done),
            event("response.content_part.done", **self._place, part=part),
            event("response.output_item.done", output_index=self._index, item=item),
        )
        return b"".join(events), item


class _Thoughts:
    """Thoughts of the model that are not complete."""

    def __init__(self, events: ResponseEvents, index: int) -> None:
        self._events, self._index, self._ident = events, index, new_id("rs")
        self._text: list[str] = []
        self._place = {"item_id": self._ident, "output_index": index, "summary_index": 0}

    def begin(self) -> bytes:
        item, event = reasoning_item(self._ident), self._events.event
        return event("response.output_item.added", output_index=self._index, item=item) + event(
            "response.reasoning_summary_part.added", **self._place, part=summary_part()
        )

    def add(self, text: str) -> bytes:
        self._text.append(text)
        kind = "response.reasoning_summary_text.delta"
        return self._events.event(kind, **self._place, delta=text)

    def end(self, status: str) -> tuple[bytes, Json]:
        text = "".join(self._text)
        part = summary_part(text)
        item, event = reasoning_item(self._ident, [part]), self._events.event
        events = (
            event("response.reasoning_summary_text.done", **self._place, text=text),
            event("response.reasoning_summary_part.done", **self._place, part=part),
            event("response.output_item.done", output_index=self._index, item=item),
        )
        return b"".join(events), item
