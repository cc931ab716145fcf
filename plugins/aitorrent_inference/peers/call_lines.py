"""Calls of tools in the lines of an answer: parts while a model writes them. No I/O.

A line may have `tool_call_parts`, each `{"index", "arguments"}`, the first of a call also with `id`
and `name`, and the last one with `ends` true. The last line has all whole calls, in order: nodes
that know no parts read only these, and send none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aitorrentd.api import ProtocolError
from aitorrentd.api.models.call_parts import CallPart, CallStep
from aitorrentd.api.models.tools import MAX_ARGUMENTS, MAX_CALLS, ToolCall, is_tool_name


class WirePart(BaseModel):
    """A part of a call in a line."""

    model_config = ConfigDict(extra="ignore")

    index: int = Field(ge=0, lt=MAX_CALLS)
    id: str = Field("", max_length=256)
    name: str = Field("", max_length=128)
    arguments: str = Field("", max_length=MAX_ARGUMENTS)
    ends: bool = False


def part_maps(steps: Sequence[CallStep]) -> list[dict[str, Any]]:
    """The parts as a line has them."""
    found = []
    for step in steps:
        part: dict[str, Any] = {"index": step.index, "arguments": step.arguments}
        if step.begins:
            part |= {"id": step.id, "name": step.name}
        if step.whole is not None:
            part["ends"] = True
        found.append(part)
    return found


class CallReader:
    """Puts together the calls of one answer by a peer."""

    def __init__(self) -> None:
        self._calls: list[ToolCall] = []
        "Whole ones."
        self._open: CallPart | None = None
        self._arguments: list[str] = []
        self._chars = 0
        "Of the call that is open."
        self.chars = 0
        "Of all arguments."

    def read(
        self, parts: Sequence[WirePart], *, has_text: bool = False
    ) -> tuple[tuple[ToolCall, ...], tuple[CallPart, ...]]:
        """(calls that are whole now, parts of the next one) of a line, as `Chunk` has them.

        Raises:
            ProtocolError: they belong to no call, a call is too long, or a text is inside one.
        """
        whole, begun = list[ToolCall](), list[CallPart]()
        was_open = self._open is not None
        for part in parts:
            begun.append(self._part(part))
            if part.ends:
                whole.append(self._ended())
                begun.clear()
        if has_text and was_open and not whole:
            raise ProtocolError("bad answer line: a text inside a call of a tool")
        return tuple(whole), tuple(begun)

    def rest(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        """Those of the last line's calls that did not come in parts.

        Raises:
            ProtocolError: they are other calls.
        """
        count = len(self._calls)
        if list(calls[:count]) != self._calls or (self._open is not None and len(calls) > count):
            raise ProtocolError("bad answer line: tool_calls are not those that came in parts")
        return tuple(calls[count:])

    def _part(self, part: WirePart) -> CallPart:
        begins = self._open is None
        if part.index != len(self._calls) or begins is not is_tool_name(part.name):
            raise ProtocolError("bad answer line: a part of a call of a tool belongs to no call")
        made = CallPart(part.arguments, part.id if begins else "", part.name if begins else "")
        if begins:
            self._open, self._arguments, self._chars = made, [], 0
        self._arguments.append(part.arguments)
        self._chars += len(part.arguments)
        self.chars += len(part.arguments)
        if self._chars > MAX_ARGUMENTS:
            raise ProtocolError("bad answer line: the arguments of a call of a tool are too long")
        return made

    def _ended(self) -> ToolCall:
        if self._open is None:
            raise ProtocolError("bad answer line: the end of no call of a tool")
        call = ToolCall(id=self._open.id, name=self._open.name, arguments="".join(self._arguments))
        self._calls.append(call)
        self._open = None
        return call
