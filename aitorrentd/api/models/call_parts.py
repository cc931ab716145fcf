"""Calls of tools that arrive in parts, while the model writes them. No I/O.

A chunk has `call_parts` of at most one call that goes on after it. The first part of a call names
it; then its arguments arrive as text. The whole call follows in `tool_calls`, with arguments that
begin with these parts, before any other call, text or reasoning: in a chunk with a text the end of
an earlier call comes before the text, and new calls after it. Only a call that the token limit cut
off has parts and no whole. Whoever needs whole calls looks at `tool_calls` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from aitorrentd.api.models.tools import ToolCall
from aitorrentd.errors import ProtocolError


@dataclass(frozen=True, slots=True)
class CallPart:
    """A part of a call."""

    arguments: str = ""
    "The next characters of the arguments' JSON."
    id: str = ""
    name: str = ""
    "In the first part of a call only, as the id."


class HasCalls(Protocol):
    """What a chunk has of calls."""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Whole ones."""

    @property
    def call_parts(self) -> tuple[CallPart, ...]:
        """Parts of the next one."""


@dataclass(frozen=True, slots=True)
class CallStep:
    """What a stream of calls tells next about one call."""

    index: int
    "Of the call in the answer, from 0."
    id: str
    name: str
    begins: bool = False
    arguments: str = ""
    "The next characters of the arguments' JSON."
    whole: ToolCall | None = None
    "The call, in its last step."
    is_cut: bool = False
    "Whether the last step ends a call that was never completed."


class CallSteps:
    """The calls of one answer, one after the other, whether they come in parts or whole."""

    def __init__(self) -> None:
        self.count = 0
        "Calls begun."
        self._id = self._name = ""
        self._sent: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether a call has begun and is not complete."""
        return bool(self._name)

    def around(self, chunk: HasCalls) -> tuple[list[CallStep], list[CallStep]]:
        """What a chunk tells before its text, which is the end of an earlier call, and after it. A
        call that comes whole makes one step.

        Raises:
            ProtocolError: a call is not the one that was begun, or parts have no beginning.
        """
        if not chunk.tool_calls and not chunk.call_parts:  # nearly all chunks: tokens of a text
            return [], []
        count = 1 if self.is_open and chunk.tool_calls else 0
        steps = list(self._steps(chunk))
        return steps[:count], steps[count:]

    def _steps(self, chunk: HasCalls) -> Iterator[CallStep]:
        for call in chunk.tool_calls:
            yield self._completed(call)
        for part in chunk.call_parts:
            yield self._part(part)

    def cut(self) -> CallStep | None:
        """The end of a call that is not complete, at the end of the answer; None without one."""
        if not self._name:
            return None
        name, ident = self._name, self._id
        whole = ToolCall(id=ident, name=name, arguments="".join(self._sent))
        self._name, self._sent = "", []
        return CallStep(self.count - 1, ident, name, whole=whole, is_cut=True)

    def _part(self, part: CallPart) -> CallStep:
        if bool(part.name) is self.is_open:
            raise ProtocolError("a part of a call of a tool belongs to no call")
        begins = bool(part.name)
        if begins:
            self.count += 1
            self._id, self._name = part.id, part.name
        self._sent.append(part.arguments)
        return CallStep(
            self.count - 1, self._id, self._name, begins=begins, arguments=part.arguments
        )

    def _completed(self, call: ToolCall) -> CallStep:
        if not self._name:
            self.count += 1
            return CallStep(self.count - 1, call.id, call.name, True, call.arguments, whole=call)
        sent = "".join(self._sent)
        if (call.id, call.name) != (self._id, self._name) or not call.arguments.startswith(sent):
            raise ProtocolError(f"the call of {call.name} is not the one that was begun")
        self._name, self._sent = "", []
        rest = call.arguments[len(sent) :]
        return CallStep(self.count - 1, call.id, call.name, arguments=rest, whole=call)
