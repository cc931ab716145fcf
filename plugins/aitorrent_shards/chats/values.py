"""Arguments that models write as texts without quotes, as values that their JSON Schema takes.

No I/O.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Mapping
from typing import Any, Final

_KINDS: Final[Mapping[type, tuple[str, ...]]] = {
    type(None): ("null",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
}
_ALL: Final = frozenset(kind for kinds in _KINDS.values() for kind in kinds)
_WORDS: Final[Mapping[str, Any]] = {"true": True, "false": False, "null": None, "none": None}
"Also as Python writes them."
_MAX_DEPTH: Final = 16
_MAX_LITERAL: Final = 65_536
"Characters of a value in Python's notation."


def value_of(text: str, schema: object, root: Mapping[str, Any]) -> Any:
    """The value of an argument. `schema` is its own, `root` that of all arguments.

    A text that is no value of the schema's types stays a text, for the tool to refuse.
    """
    kinds = kinds_of(schema, root)
    if kinds == {"string"}:
        return text
    stripped = text.strip()
    for found in _readings(stripped):
        if isinstance(found, float) and found.is_integer() and "number" not in kinds:
            found = int(found)
        if not isinstance(found, str) and kinds.intersection(_KINDS[type(found)]):
            return found
    return text if "string" in kinds else stripped


def kinds_of(schema: object, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema takes; all of them if it does not say."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return _ALL
    target = schema.get("$ref")
    if isinstance(target, str):
        return kinds_of(referred(target, root), root, depth + 1)
    stated = schema.get("type")
    if isinstance(stated, str):
        return frozenset({stated})
    if isinstance(stated, list):
        return frozenset(kind for kind in stated if isinstance(kind, str)) or _ALL
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset(kind for value in values for kind in _KINDS.get(type(value), ()))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            each = (kinds_of(inner, root, depth + 1) for inner in schema[key])
            return frozenset().union(*each) or _ALL
    found = _ALL
    for inner in schema["allOf"] if isinstance(schema.get("allOf"), list) else ():
        found &= kinds_of(inner, root, depth + 1)
    return found or _ALL


def referred(target: str, root: Mapping[str, Any]) -> object:
    """What a reference inside a schema points to; None if it is not there."""
    if not target.startswith("#"):
        return None
    found: object = root
    for part in target.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _readings(text: str) -> list[Any]:
    """What a text may stand for, the likeliest first."""
    try:
        found = json.loads(text, strict=False, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        pass
    else:
        return [found]
    if text.lower() in _WORDS:
        return [_WORDS[text.lower()]]
    if text[:1] not in ("{", "[", "(") or len(text) > _MAX_LITERAL:
        return []
    try:
        with warnings.catch_warnings():
            # About the text, which is a model's: thousands of lines for a single argument.
            warnings.simplefilter("ignore")
            literal = ast.literal_eval(text)
        json.dumps(literal, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []
    return [list(literal) if isinstance(literal, tuple) else literal]


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no value in JSON")
