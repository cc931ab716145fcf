"""Control methods as tools: which of them, under which names, with which schemas. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_NEVER: Final = frozenset(
    {"node.stop", "config.set", "hub.acquire", "inference.generate", "gateway.mcp"}
)
_NEVER_BEGIN: Final = ("plugin.", "rpc.", "http.tokens.")
"""What a model has no business with: it would end or change the node itself, or is for programs.
`generate` stands for `inference.generate`."""
PRIVATE: Final = (
    "config.",
    "node.logs",
    "node.events",
    "node.doctor",
    "transport.",
    "discovery.",
    "nat.",
    "dht.",
    "tracker.",
    "http.",
)
"Logs, settings and peers' addresses: not for programs without a token."
_SECRET: Final = re.compile(r"secret|passw|^token$|api_?key", re.I)
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_DESTROYS: Final = frozenset(
    {"ban", "delete", "disable", "disconnect", "drain", "pause", "remove", "restart", "revoke"}
    | {"remove_model"}
)
_UNITED: Final = ("anyOf", "oneOf", "allOf")


@dataclass(frozen=True, slots=True)
class Tool:
    """A control method that a model may call."""

    name: str
    method: str
    is_stream: bool
    is_reading: bool
    listed: dict[str, Any]
    "As `tools/list` shows it."

    def given(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments without a null where the method takes none: programs send it for what a
        model left out."""
        fields = self.listed["inputSchema"]["properties"]
        return {
            name: value
            for name, value in arguments.items()
            if value is not None or _takes_null(fields.get(name, {}))
        }


def tool_name(method: str) -> str:
    """The name of a method's tool. Dots are legal, but several clients refuse them."""
    return method.replace(".", "_")


def tools_of(methods: Iterable[Mapping[str, Any]], *, is_known: bool) -> dict[str, Tool]:
    """The tools of methods that `rpc.describe` describes, by name; `is_known` is false for a
    program without a token."""
    found: dict[str, Tool] = {}
    for view in methods:
        name = tool_name(view["name"])
        if is_offered(view, is_known=is_known) and _NAME.fullmatch(name):
            reads, listed = view["role"] == "read", _listed(name, view)
            found.setdefault(name, Tool(name, view["name"], view["stream"], reads, listed))
    return found


def is_offered(view: Mapping[str, Any], *, is_known: bool) -> bool:
    """Whether a method is a tool at all."""
    method, schema = view["name"], view["params"]
    if method in _NEVER or method.startswith(_NEVER_BEGIN):
        return False
    if not is_known and method.startswith(PRIVATE):
        return False
    # One tool whose schema is no object makes clients drop all of them.
    if schema.get("type") != "object":
        return False
    fields = schema.get("properties", {})
    return not any(_SECRET.search(name) or each.get("writeOnly") for name, each in fields.items())


def _listed(name: str, view: Mapping[str, Any]) -> dict[str, Any]:
    reads = view["role"] == "read"
    verb = view["name"].rpartition(".")[2]
    text = view["summary"]
    if view["stream"]:
        text += " Returns what comes within a few seconds, or the first items."
    return {
        "name": name,
        "description": text,
        "inputSchema": input_schema(view["params"]),
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": not reads and (view["role"] == "admin" or verb in _DESTROYS),
            "openWorldHint": True,
        },
    }


def _takes_null(schema: Mapping[str, Any]) -> bool:
    """Whether null may have a meaning of its own."""
    either = [each for key in _UNITED for each in schema.get(key, ())]
    if either or "$ref" in schema:
        return any(map(_takes_null, either))
    kind = schema.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def input_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A method's schema as every client takes it: an object at the top, without alternatives, and
    without titles, which only repeat the names."""
    top = {key: value for key, value in schema.items() if key not in _UNITED}
    top.pop("description", None)
    made: dict[str, Any] = _untitled(top, are_names=False)
    return {"type": "object", "properties": {}, **made}


def _untitled(value: Any, *, are_names: bool) -> Any:
    if isinstance(value, list):
        return [_untitled(each, are_names=False) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _untitled(each, are_names=not are_names and key in ("properties", "$defs"))
        for key, each in value.items()
        if are_names or key != "title" or not isinstance(each, str)
    }
