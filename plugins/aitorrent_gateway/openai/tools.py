"""Tools and the choice among them in OpenAI's dialects, as fields of a request. No I/O.

Chat has a function's fields in `function`, responses beside `type`; both are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aitorrent_gateway.core.fields import flag, present, unsupported, wrong

_KEPT: Final = frozenset({"name", "description", "parameters", "strict"})
_WORDS: Final = ("auto", "none", "required")


def offered_tools(fields: Mapping[str, Any], unknown: set[str]) -> dict[str, Any]:
    """The fields of a `GenerateRequest` for `tools`, `tool_choice` and `parallel_tool_calls`; names
    that nobody knows go to `unknown`.

    Raises:
        InvalidParams: with `param` in its data.
    """
    value = fields.get("tools", [])
    if not isinstance(value, list):
        raise wrong("tools", "must be a list")
    tools = [tool_of(f"tools[{index}]", each, unknown) for index, each in enumerate(value)]
    return chosen(tools, fields)


def tool_of(name: str, value: Any, unknown: set[str]) -> dict[str, Any]:
    """The fields of a `Tool`."""
    if not isinstance(value, dict):
        raise wrong(name, "must be an object")
    if value.get("type", "function") != "function":
        raise unsupported(f"{name}.type")
    inner = value.get("function")
    if isinstance(inner, dict):
        extra, described = value.keys() - {"type", "function"}, present(inner)
    else:
        extra, described = set(), present({k: v for k, v in value.items() if k != "type"})
    if not isinstance(described.get("name"), str):
        raise wrong(f"{name}.name", "must be the name of a function")
    unknown.update(f"tools.{key}" for key in {*extra, *(described.keys() - _KEPT)})
    return {key: described[key] for key in described.keys() & _KEPT}


def chosen(tools: Sequence[Mapping[str, Any]], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `GenerateRequest` for these tools, of which `tool_choice` may allow only
    some."""
    choice, parallel = fields.get("tool_choice"), fields.get("parallel_tool_calls")
    if parallel is not None:
        flag("parallel_tool_calls", parallel)
    picked: Any = None
    if isinstance(choice, dict) and choice.get("type") in _WORDS:  # as some clients write a word
        choice = choice["type"]
    if isinstance(choice, str):
        if choice not in _WORDS:
            raise wrong("tool_choice", f"must be one of {', '.join(_WORDS)}, or an object")
        picked = choice
    elif isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        picked, names = _allowed(inner if isinstance(inner, dict) else {})
        missing = names - {tool["name"] for tool in tools}
        if missing:
            raise wrong("tool_choice", f"allows {min(missing)[:80]!r}, which is not in tools")
        tools = [tool for tool in tools if tool["name"] in names]
    elif isinstance(choice, dict) and choice.get("type") == "function":
        function = choice.get("function")
        picked = {"name": (function if isinstance(function, dict) else choice).get("name")}
        if not isinstance(picked["name"], str):
            raise wrong("tool_choice", "has no name of a function")
    elif choice is not None:
        raise unsupported("tool_choice")
    if not tools:
        # Clients send these defaults also without tools.
        return {} if picked in (None, "auto", "none") else {"tool_choice": picked}
    return {"tools": list(tools), "tool_choice": picked, "parallel_tool_calls": parallel}


def _allowed(choice: Mapping[str, Any]) -> tuple[str, set[str]]:
    """(mode, names) of an `allowed_tools` choice."""
    mode, listed = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required") or not isinstance(listed, list):
        raise wrong("tool_choice", "has no mode auto or required, or no list of tools")
    names = set()
    for each in listed:
        inner = each.get("function", each) if isinstance(each, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        if not isinstance(name, str):
            raise wrong("tool_choice", "allows a tool that is not a function with a name")
        names.add(name)
    return mode, names
