"""The input of a responses request, as turns of a conversation. No I/O."""

from __future__ import annotations

import json
from typing import Any, Final

from aitorrent_gateway.core.fields import images_of, parts_of, present, unsupported, wrong
from aitorrent_gateway.openai.responses.tools import offered_name
from aitorrentd.api import InvalidParams

# What a server did itself, or kept for itself: the model need not see it again.
_LEFT_OUT: Final = frozenset(
    {
        "reasoning",
        "compaction",
        "compaction_trigger",
        "web_search_call",
        "file_search_call",
        "image_generation_call",
        "code_interpreter_call",
        "tool_search_call",
        "tool_search_output",
        "mcp_list_tools",
        "mcp_call",
        "mcp_approval_request",
        "mcp_approval_response",
    }
)
_NO_TURN: Final = _LEFT_OUT | {"additional_tools"}
_SYSTEM: Final = ("system", "developer")
_ROLES: Final = (*_SYSTEM, "user", "assistant")
_KEPT: Final = frozenset({"type", "role", "content", "images"})
# What answers have beside it, and clients repeat.
_NO_EFFECT: Final = frozenset({"id", "status", "name", "phase", "internal_chat_message_metadata"})


class Turns:
    """Turns, put together from items."""

    def __init__(self, unknown: set[str]) -> None:
        self.turns: list[dict[str, Any]] = []
        self.tools: list[Any] = []
        "As in the request's `tools`: Codex adds some in the middle of a conversation."
        self._unknown = unknown
        "Gets the kinds of items that are left out, but for thoughts."

    def instruct(self, value: Any) -> None:
        """Add the instructions of the request."""
        if not isinstance(value, str):
            raise wrong("instructions", "must be a string")
        if value:
            self.turns.append({"role": "system", "content": value})

    def add(self, value: Any) -> None:
        """Add the whole input.

        Raises:
            InvalidParams: with `param` in its data.
        """
        if isinstance(value, str):
            self.turns.append({"role": "user", "content": value})
            return
        if not isinstance(value, list) or not value:
            raise wrong("input", "must be a string or a list of at least one item")
        has_turn = False
        for index, each in enumerate(value):
            if not isinstance(each, dict):
                raise wrong(f"input[{index}]", "must be an object")
            item = present(each)
            self._add(f"input[{index}]", item)
            has_turn |= item.get("type", "message") not in _NO_TURN
        if not has_turn:
            raise wrong("input", "has neither a message nor a call of a tool or its result")

    def _add(self, name: str, item: dict[str, Any]) -> None:
        kind = item.get("type", "message")
        if item.keys() == {"id"}:  # a reference may lack its type
            raise _not_stored(name)
        if kind == "message":
            self._message(name, item)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(name, item, is_custom=kind == "custom_tool_call")
        elif kind in ("function_call_output", "custom_tool_call_output"):
            turn = {"role": "tool", "content": _content(f"{name}.output", item.get("output", ""))}
            self.turns.append(turn | {"tool_call_id": item.get("call_id")})
        elif kind in _LEFT_OUT:
            if kind != "reasoning":
                self._unknown.add(f"input.{kind}")
        elif kind == "additional_tools":
            tools = item.get("tools", [])
            if not isinstance(tools, list):
                raise wrong(f"{name}.tools", "must be a list")
            self.tools += tools
        elif kind == "item_reference":
            raise _not_stored(name)
        else:
            raise unsupported(f"{name}.type")

    def _message(self, name: str, item: dict[str, Any]) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise wrong(f"{name}.role", f"must be one of {', '.join(_ROLES)}")
        if role != "assistant" and "content" not in item:
            raise wrong(f"{name}.content", "is required")
        content = _content(f"{name}.content", item.get("content", ""))
        self._unknown.update(f"input.{key}" for key in item.keys() - _KEPT - _NO_EFFECT)
        images = item.get("images")
        images_of(f"{name}.images", images)
        if role not in _SYSTEM:
            self.turns.append({"role": role, "content": content})
            if images:
                self.turns[-1]["images"] = images
        elif images:
            raise unsupported(f"{name}.images")
        elif self.turns and self.turns[0]["role"] == "system":
            # Agents send several, and chat templates take one, at the start.
            self.turns[0]["content"] = _joined(self.turns[0]["content"], content)
        else:
            self.turns.insert(0, {"role": "system", "content": content})

    def _call(self, name: str, item: dict[str, Any], *, is_custom: bool) -> None:
        own, space = item.get("name"), item.get("namespace")
        if not isinstance(own, str):
            raise wrong(f"{name}.name", "must be the name of a tool")
        arguments = item.get("arguments", "{}")
        if is_custom:
            arguments = json.dumps({"input": item.get("input", "")})
        call = {
            "id": item.get("call_id"),
            "name": offered_name(own, space if isinstance(space, str) else None),
            "arguments": arguments,
        }
        if self.turns and self.turns[-1]["role"] == "assistant":
            self.turns[-1].setdefault("tool_calls", []).append(call)
        else:
            self.turns.append({"role": "assistant", "content": "", "tool_calls": [call]})


def _not_stored(name: str) -> InvalidParams:
    return wrong(
        f"{name}.id",
        "is of an item that is not stored; send the item itself"
        " (in the AI SDK: providerOptions: {openai: {store: false}})",
    )


def _content(name: str, value: Any) -> Any:
    """A content as `Message` takes it."""
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict) and each.get("type") in ("input_file", "input_audio"):
            raise unsupported(name)
    return parts_of(name, value)


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    lists = [[each] if isinstance(each, str) else list(each) for each in (first, second)]
    return [*lists[0], "\n\n", *lists[1]]
