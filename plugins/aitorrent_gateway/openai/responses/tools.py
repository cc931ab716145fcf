"""Tools of a responses request: functions, functions in namespaces, and custom tools. No I/O.

A model is offered functions only. One in a namespace is offered as `NAMESPACE.NAME`, a custom tool
as a function with one text; its calls get their own shape back. Tools that a server would run
itself (`web_search` and the like) are left out: agents send them to every server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aitorrent_gateway.core.fields import unsupported, wrong
from aitorrent_gateway.openai.tools import chosen, tool_of

_INPUT: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
# Fields of a function that say nothing to a model.
_NO_EFFECT: Final = frozenset({"allowed_callers", "async", "defer_loading", "output_schema"})


@dataclass(frozen=True, slots=True)
class Origin:
    """What the client calls a tool that the model is offered as a function."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


@dataclass(slots=True)
class OfferedTools:
    """The tools that a model is offered, and where they come from."""

    functions: list[dict[str, Any]] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    "By the name that the model knows."

    def origin(self, offered: str) -> Origin:
        """What the client calls the tool."""
        return self.origins.get(offered) or Origin(offered)

    def add(self, name: str, value: Any, unknown: set[str], namespace: str | None = None) -> None:
        """Offer one tool; a kind that this server does not have goes to `unknown`."""
        if not isinstance(value, dict):
            raise wrong(name, "must be an object")
        kind = value.get("type", "function")
        if kind == "namespace" and namespace is None:
            inner, own = value.get("tools"), value.get("name")
            if not isinstance(inner, list) or not isinstance(own, str) or not own:
                raise wrong(name, "is a namespace without a name or a list of tools")
            for index, each in enumerate(inner):
                self.add(f"{name}.tools[{index}]", each, unknown, own)
            return
        if kind not in ("function", "custom"):
            unknown.add(f"tools.{kind}")
            return
        plain = {k: v for k, v in value.items() if k not in _NO_EFFECT}
        if kind == "custom":
            plain = {k: v for k, v in plain.items() if k in ("name", "description")}
            plain["parameters"] = _INPUT
        made = tool_of(name, plain | {"type": "function"}, unknown)
        origin = Origin(made["name"], namespace, kind == "custom")
        made["name"] = offered_name(made["name"], namespace)
        self.functions.append(made)
        self.origins[made["name"]] = origin


def offered_name(name: str, namespace: str | None) -> str:
    """What the model calls a tool."""
    return f"{namespace}.{name}" if namespace else name


def read_tools(
    fields: Mapping[str, Any], unknown: set[str], more: Sequence[Any] = ()
) -> tuple[OfferedTools, dict[str, Any]]:
    """The tools, and the fields of a `GenerateRequest` for them and the choice among them; `more`
    are tools that the conversation adds.

    Raises:
        InvalidParams: with `param` in its data.
    """
    listed = fields.get("tools", [])
    if not isinstance(listed, list):
        raise wrong("tools", "must be a list")
    offered = OfferedTools()
    for index, each in enumerate([*listed, *more]):
        offered.add(f"tools[{index}]", each, unknown)
    return offered, chosen(offered.functions, {**fields, "tool_choice": _choice(fields)})


def _choice(fields: Mapping[str, Any]) -> Any:
    """The choice, with the names that the model knows."""
    choice = fields.get("tool_choice")
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("tools"), list):
        return {**choice, "tools": [_named(each) for each in choice["tools"]]}
    if choice.get("type") not in ("function", "custom", "allowed_tools"):
        raise unsupported("tool_choice")
    return _named(choice)


def _named(choice: Any) -> Any:
    if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
        return choice
    namespace = choice.get("namespace")
    name = offered_name(choice["name"], namespace if isinstance(namespace, str) else None)
    return {"type": "function", "name": name}


def custom_input(arguments: str) -> str:
    """The text in a call of a custom tool."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    text = value.get("input") if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments
