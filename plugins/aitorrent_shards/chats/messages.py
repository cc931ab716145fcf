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
    messages: Sequence[Message], *, short_ids: bool = False
) -> list[dict[str, Any]]:
    """The turns, with calls of tools and their results.

    A result names its tool, which clients may give by the id of the call only. With `short_ids`,
    ids of other servers become nine letters and digits, the same for a call and its result.
    """
    names = {call.id: call.name for message in messages for call in message.tool_calls if call.id}
    turns = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            turn["tool_calls"] = [_call(call, short_ids) for call in message.tool_calls]
        if message.role == "tool":
            if name := message.tool_name or names.get(message.tool_call_id, ""):
                turn["name"] = name
            if message.tool_call_id:
                turn["tool_call_id"] = _id(message.tool_call_id, short_ids)
        turns.append(turn)
    return turns


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
        arguments = found
    function = {"name": call.name, "arguments": arguments}
    return {"id": _id(call.id, short_ids), "type": "function", "function": function}


def _id(given: str, short_ids: bool) -> str:
    if not short_ids or _SHORT_ID.fullmatch(given):
        return given
    return b32encode(blake2b(given.encode(), digest_size=6).digest()).decode()[:9]
