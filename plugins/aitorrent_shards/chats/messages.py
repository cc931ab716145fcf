"""A conversation as chat templates take it, in the shapes of transformers. No I/O."""

from __future__ import annotations

import json
import re
from base64 import b32encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

from aitorrentd.api import Message
from aitorrentd.api.models.tools import Tool, ToolCall, tool_map

_SHORT_ID: Final = re.compile(r"[A-Za-z0-9]{9}")


def template_messages(
    messages: Sequence[Message], *, short_ids: bool = False, one_call: bool = False
) -> list[dict[str, Any]]:
    """The turns, with calls of tools and their results.

    A result names its tool and its call, of which clients often give only one. With `short_ids`,
    ids of other servers become nine letters and digits, the same for a call and its result. With
    `one_call`, a turn with several calls becomes several, each before its result.
    """
    turns: list[dict[str, Any]] = []
    waiting: list[ToolCall] = []
    "Calls without a result so far."
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "tool":
            call = _answered(message, waiting)
            name = message.tool_name or (call.name if call is not None else "")
            ident = message.tool_call_id or (call.id if call is not None else "")
            turn |= {"name": name} if name else {}
            turn |= {"tool_call_id": _id(ident, short_ids)} if ident else {}
        elif message.tool_calls:
            waiting = _identified(message.tool_calls, len(turns))
            turn["tool_calls"] = [_call(call, short_ids) for call in waiting]
        turns.append(turn)
    return _one_by_one(turns) if one_call else turns


def _identified(calls: Sequence[ToolCall], place: int) -> list[ToolCall]:
    """The calls, each with an id, which some clients leave out."""
    return [
        call if call.id else call.model_copy(update={"id": f"call-{place}-{n}"})
        for n, call in enumerate(calls)
    ]


def _answered(result: Message, waiting: list[ToolCall]) -> ToolCall | None:
    """The call that a result answers: by its id, else by its tool, else the oldest."""
    found = [call for call in waiting if call.id == result.tool_call_id]
    if not result.tool_call_id:
        found = [call for call in waiting if call.name == result.tool_name] or waiting[:1]
    if not found:
        return None
    waiting.remove(found[0])
    return found[0]


def _one_by_one(turns: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    "Turns with one call each, whose results have not come yet."
    for turn in turns:
        if turn["role"] == "tool":
            ident = turn.get("tool_call_id")
            due = next((p for p in pending if p["tool_calls"][0]["id"] == ident), None)
            if due is not None:
                pending.remove(due)
                found.append(due)
        else:
            found += pending
            pending = [
                {**turn, "content": turn["content"] if n == 0 else "", "tool_calls": [call]}
                for n, call in enumerate(turn.get("tool_calls", ()))
            ]
            if pending:
                continue
        found.append(turn)
    return [*found, *pending]


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as templates list them."""
    shown = [tool_map(tool) for tool in tools]
    for tool in shown:
        tool["function"].pop("strict", None)  # says nothing to a model
    return shown


def _call(call: ToolCall, short_ids: bool) -> dict[str, Any]:
    arguments: Any = call.arguments
    try:
        found = json.loads(call.arguments, strict=False)
    except (ValueError, RecursionError):
        found = None  # the model wrote it, so it is shown as it is
    if isinstance(found, dict):
        arguments = _Arguments(found)
    function = {"name": call.name, "arguments": arguments}
    return {"id": _id(call.id, short_ids), "type": "function", "function": function}


class _Arguments(dict[str, Any]):
    """Arguments of a call, which some templates take for an object and others for a text."""

    def __str__(self) -> str:
        return json.dumps(self, ensure_ascii=False)

    def __add__(self, other: str) -> str:
        return f"{self}{other}"

    def __radd__(self, other: str) -> str:
        return f"{other}{self}"


def _id(given: str, short_ids: bool) -> str:
    if not short_ids or _SHORT_ID.fullmatch(given):
        return given
    return b32encode(blake2b(given.encode(), digest_size=6).digest()).decode()[:9]
