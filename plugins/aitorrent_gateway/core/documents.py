"""JSON Schemas of requests, from the fields that their readers know. No I/O."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from aitorrentd.api.models.sampling import SamplingParams

_EVERYWHERE: Final[dict[str, dict[str, Any]]] = {
    "model": {"type": ["string", "null"]},
    "messages": {"type": "array", "items": {"type": "object"}},
    "stream": {"type": ["boolean", "null"]},
    "tools": {"type": ["array", "null"], "items": {"type": "object"}},
}
"Fields that mean the same in every dialect."


_WIDER: Final[dict[str, dict[str, Any]]] = {
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1}
}
"Fields that every dialect takes with more values than `SamplingParams` does."


def later(module: str, name: str) -> Callable[[], Mapping[str, Any]]:
    """What calls a function of a module, which is imported then: idle nodes save its memory."""

    def made() -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(importlib.import_module(module), name)()
        return found

    return made


def body_of(
    known: Iterable[str], same: Iterable[str] = (), required: Iterable[str] = ()
) -> dict[str, Any]:
    """The schema of a body with these fields. Those of `same` go to the model as they are, so they
    have the types and limits of `SamplingParams`; what the others may be depends on each other, and
    errors tell it. Fields that nobody knows are left out, and named in a header of the answer."""
    own = SamplingParams.model_json_schema()["properties"]
    shapes = _EVERYWHERE | {name: _bare(own[name], _WIDER.get(name)) for name in same}
    return {
        "type": "object",
        "properties": {name: shapes.get(name, {}) for name in sorted(known)},
        "required": sorted(required),
    }


def _bare(schema: dict[str, Any], wider: dict[str, Any] | None) -> dict[str, Any]:
    if wider is not None:
        return wider | {"description": schema["description"]}
    return {key: value for key, value in schema.items() if key not in ("title", "default")}
