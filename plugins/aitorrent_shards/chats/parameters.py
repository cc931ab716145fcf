"""Grammars of calls whose arguments stand between tags, a text without quotes. No I/O.

An argument that may be a text is one; any other is written in JSON, by its schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aitorrent_shards.chats.formats import Syntax, ToolFormat
from aitorrent_shards.chats.values import kinds_of, referred
from aitorrentd.api import InvalidParams

_KEY: Final = "/[A-Za-z_][A-Za-z0-9_-]{0,63}/"
_MAX_FREE: Final = 16
"Arguments of a tool that takes any."
_ROOT: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "title", "description", "default"}
    | {"$schema", "$id", "$defs", "definitions", "$comment", "examples", "strict"}
)
"Keywords at the root that hold in this grammar, or say nothing."
_TEXT: Final = frozenset({"pattern", "format", "contentEncoding", "contentMediaType"})
"Keywords of texts that do not hold in it."


class ParameterRules:
    """The rules `c0`, `c1` and so on, for the calls of each tool added, and what they refer to."""

    def __init__(self, found: ToolFormat, syntax: Syntax) -> None:
        self._tags = {tag.text: tag for tag in found.tags}
        self._syntax = syntax
        self._count = 0
        self.lines = ["ANY: /(?s:.*)/", r"EDGE: /\n?/"]
        self.schemas: dict[str, dict[str, Any]] = {}

    def add(self, name: str, schema: Mapping[str, Any], *, is_exact: bool) -> None:
        """The calls of a tool whose arguments have this schema.

        Raises:
            InvalidParams: it `is_exact`, and something in it cannot be enforced here.
        """
        number, self._count = self._count, self._count + 1
        root = _object(schema)
        odd = sorted(root.keys() - _ROOT)
        if odd and is_exact:
            raise _refused(name, f"{odd[0]} beside the parameters")
        known = root.get("properties")
        properties: dict[str, Any] = dict(known) if isinstance(known, dict) else {}
        stated = root.get("required")
        required = [k for k in stated if isinstance(k, str)] if isinstance(stated, list) else []
        properties |= {key: {} for key in required if key not in properties}
        parts: list[str] = []
        for n, (key, inner) in enumerate(properties.items()):
            if not key or any(c in key for c in '<>"\n'):
                if is_exact:
                    raise _refused(name, f"a parameter named {key[:40]!r}")
                continue
            place = f"{number}_{n}"
            value = self._value(place, inner, schema, name if is_exact else "")
            self.lines.append(
                f"p{place}: SPACE {self._key(json.dumps(key, ensure_ascii=False))}{value}"
            )
            parts.append(f"p{place}" + ("" if key in required else "?"))
        if not properties and root.get("additionalProperties") is not False:
            self.lines.append(f"p{number}: SPACE {self._key(_KEY)}{self._text(f'{number}')}")
            parts.append(f"p{number}{{0,{_MAX_FREE}}}")
        syntax = self._syntax
        head = json.dumps(syntax.name_open + name + syntax.name_close, ensure_ascii=False)
        self.lines.append(f"c{number}: {head} {' '.join(parts)} SPACE {self._written(syntax.end)}")

    def _key(self, name: str) -> str:
        syntax = self._syntax
        opening, closing = self._written(syntax.key_open), self._written(syntax.key_close)
        value = f"SPACE {self._written(syntax.value_open)} " if syntax.value_open else ""
        return f"{opening} {name} {closing} {value}"

    def _value(self, place: str, schema: Any, root: Mapping[str, Any], exact: str) -> str:
        """The value and its closing tag. `exact` names a tool whose schema has to hold."""
        inner = _resolved(schema, root)
        kinds = kinds_of(schema, root)
        closing = self._written(self._syntax.value_close)
        if "string" not in kinds:
            shared = {k: root[k] for k in ("$defs", "definitions") if k in root}
            self.schemas[f"t{place}"] = {**(schema if isinstance(schema, dict) else {}), **shared}
            return f"SPACE @t{place} SPACE {closing}"
        edge = "EDGE " if self._syntax.trims else ""
        values = [inner["const"]] if "const" in inner else inner.get("enum")
        if isinstance(values, list) and values:
            each = (v if isinstance(v, str) else json.dumps(v) for v in values)
            words = " | ".join(json.dumps(word, ensure_ascii=False) for word in each)
            return f"{edge}({words}) {edge}{closing}"
        odd = sorted(inner.keys() & _TEXT)
        if odd and exact:
            raise _refused(exact, f"{odd[0]} of a text")
        return self._text(place, _bound(inner, "minLength"), _bound(inner, "maxLength"))

    def _text(self, place: str, least: int | None = None, most: int | None = None) -> str:
        """A text and its closing tag."""
        tag = self._tags.get(self._syntax.value_close)
        closing = self._written(self._syntax.value_close)
        text = "ANY"
        if least is not None or most is not None:
            edge = r"\n" if self._syntax.trims else ""
            count = f"{{{least or 0},{'' if most is None else most}}}"
            self.lines.append(f"X{place}: /{edge}(?s:.{count}){edge}/")
            text = f"X{place}"
        if tag is not None and tag.token is not None:
            return f"{text} {closing}"  # an added token is never part of a text
        self.lines.append(f"v{place}[lazy]: {text} {closing}")
        return f"v{place}"

    def _written(self, text: str) -> str:
        tag = self._tags.get(text)
        return json.dumps(text) if tag is None or tag.token is None else f"<[{tag.token}]>"


def _object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return _resolved(schema, schema) if "$ref" in schema else schema


def _resolved(schema: object, root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(8):
        target = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(target, str):
            break
        schema = referred(target, root)
    return schema if isinstance(schema, Mapping) else {}


def _bound(schema: Mapping[str, Any], key: str) -> int | None:
    value = schema.get(key)
    return min(value, 10_000) if type(value) is int and value >= 0 else None


def _refused(tool: str, what: str) -> InvalidParams:
    return InvalidParams(
        f"parameters of the tool {tool}: the schema cannot be applied: {what} cannot be enforced"
        " in the format in which this model calls tools",
        params=["tools"],
    )
