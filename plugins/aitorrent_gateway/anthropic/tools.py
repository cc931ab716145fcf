"""Tools of Anthropic's clients, and which of them a conversation offers. No I/O.

Tools that Anthropic's servers run are not here: they are left out and reported. A deferred tool is
offered once the conversation refers to it, as at Anthropic; if the search for tools is one of those
that are left out, nothing would refer to it, and it is offered at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from aitorrent_gateway.anthropic.conversation import Conversation
from aitorrent_gateway.core.fields import explained, flag, one_of, text_of, wrong
from aitorrentd.api import InvalidParams
from aitorrentd.api.models.tools import Tool

_CHOICES: Final = {"auto": None, "any": "required", "none": "none", "tool": "tool"}
_SEARCH: Final = "tool_search_tool_"
# Tools that clients run, whose shape only Anthropic's models know by heart.
_BUILT_IN: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bash": (
        "Run a command in a persistent shell, or restart the shell.",
        {
            "type": "object",
            "properties": {
                "command": {"type": "string", "description": "the command to run"},
                "restart": {"type": "boolean", "description": "true to restart the shell"},
            },
        },
    ),
    "text_editor": (
        "View, create and edit text files.",
        {
            "type": "object",
            "properties": {
                "command": {
                    "type": "string",
                    "enum": ["view", "create", "str_replace", "insert"],
                },
                "path": {"type": "string", "description": "of the file or directory"},
                "view_range": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "view: first and last line; -1 = to the end",
                },
                "file_text": {"type": "string", "description": "create: the content"},
                "old_str": {"type": "string", "description": "str_replace: the text to replace"},
                "new_str": {"type": "string", "description": "str_replace: the new text"},
                "insert_line": {"type": "integer", "description": "insert: after this line"},
                "insert_text": {"type": "string", "description": "insert: the text"},
            },
            "required": ["command", "path"],
        },
    ),
    "memory": (
        "Keep notes in files below /memories that last longer than this conversation. View that"
        " directory before anything else, and write down what will be needed later.",
        {
            "type": "object",
            "properties": {
                "command": {
                    "type": "string",
                    "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
                },
                "path": {"type": "string", "description": "all but rename: such as /memories/a"},
                "view_range": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "description": "view: first and last line",
                },
                "file_text": {"type": "string", "description": "create: the content"},
                "old_str": {"type": "string", "description": "str_replace: the text to replace"},
                "new_str": {"type": "string", "description": "str_replace: the new text"},
                "insert_line": {"type": "integer", "description": "insert: after this line"},
                "insert_text": {"type": "string", "description": "insert: the text"},
                "old_path": {"type": "string", "description": "rename: the path so far"},
                "new_path": {"type": "string", "description": "rename: the new path"},
            },
            "required": ["command"],
        },
    ),
}


def offered(value: object, said: Conversation) -> tuple[Tool, ...]:
    """The tools that the model may call. Types that are left out are added to `said.dropped`.

    Raises:
        InvalidParams: with `param` in its data.
    """
    if not isinstance(value, list):
        raise wrong("tools", "must be a list")
    found, deferred = dict[str, Tool](), set[str]()
    has_search = False
    for index, each in enumerate([*value, *said.defined]):
        where = f"tools[{index}]"
        if not isinstance(each, dict):
            raise wrong(where, "must be an object")
        kind = text_of(f"{where}.type", each.get("type") or "custom")
        has_search = has_search or kind.startswith(_SEARCH)
        fields = _fields(kind, each)
        if fields is None:
            said.dropped.add(kind)
            continue
        tool = _made(where, fields)
        if tool.name in found and index < len(value):
            raise wrong(f"{where}.name", "is the name of two tools")
        found[tool.name] = tool
        if each.get("defer_loading") is True:
            deferred.add(tool.name)
    hidden = said.removed if has_search else said.removed | (deferred - said.offered)
    return tuple(tool for name, tool in found.items() if name not in hidden)


def choice(value: object, tools: Sequence[Tool]) -> dict[str, Any]:
    """`tool_choice` and `parallel_tool_calls` of a request, as far as they are not the default.

    Raises:
        InvalidParams: with `param` in its data.
    """
    if not isinstance(value, dict):
        raise wrong("tool_choice", "must be an object")
    made: dict[str, Any] = {}
    wanted = one_of("tool_choice.type", value.get("type"), _CHOICES)
    names = [tool.name for tool in tools]
    if wanted == "tool":
        name = value.get("name")
        if not isinstance(name, str) or name not in names:
            raise wrong("tool_choice.name", "must be the name of a tool that can be called")
        wanted = {"name": name}
    elif wanted == "required" and not names:
        raise wrong("tool_choice", "asks for a call, but there is no tool that can be called")
    if wanted is not None:
        made["tool_choice"] = wanted
    one = value.get("disable_parallel_tool_use")
    if one is not None and flag("tool_choice.disable_parallel_tool_use", one):
        made["parallel_tool_calls"] = False
    return made


def _fields(kind: str, tool: Mapping[str, Any]) -> dict[str, Any] | None:
    if kind == "custom":
        return {
            "name": tool.get("name"),
            "description": tool.get("description"),
            "parameters": tool.get("input_schema"),
            "strict": tool.get("strict"),
        }
    for prefix, (description, schema) in _BUILT_IN.items():
        if kind.startswith(f"{prefix}_2"):
            return {
                "name": tool.get("name"),
                "description": description,
                "parameters": schema,
            }
    return None


def _made(where: str, fields: Mapping[str, Any]) -> Tool:
    try:
        return Tool.model_validate(fields)
    except ValidationError as e:
        found = explained(e)
        inner = str(found.data.get("param") or "").replace("parameters", "input_schema", 1)
        param = f"{where}.{inner}" if inner else where
        text = found.message.partition(": ")[2] or found.message
        raise InvalidParams(f"{param}: {text}", param=param) from None
