"""JSON Schemas of answers, in few words. No I/O.

Keys that end with a question mark may be missing: `{"id": TEXT, "warning?": TEXT}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]
TEXT: Final[Json] = {"type": "string"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
NUMBER: Final[Json] = {"type": "number"}
FLAG: Final[Json] = {"type": "boolean"}
NOTHING: Final[Json] = {"type": "null"}
ANY_OBJECT: Final[Json] = {"type": "object"}


def shape(fields: Mapping[str, Json]) -> Json:
    """An object with these keys; clients skip keys that they do not know."""
    return {
        "type": "object",
        "required": sorted(name for name in fields if not name.endswith("?")),
        "properties": {name.removesuffix("?"): value for name, value in fields.items()},
    }


def each(schema: Json) -> Json:
    """A list of such values."""
    return {"type": "array", "items": schema}


def one_of(*schemas: Json) -> Json:
    """Any of these."""
    return {"anyOf": list(schemas)}


def word(*words: str) -> Json:
    """One of these texts."""
    return {"enum": list(words)} if len(words) > 1 else {"const": words[0]}


def maybe(schema: Json) -> Json:
    """Such a value, or null."""
    return one_of(schema, NOTHING)


NODE: Final = shape(
    {
        "stages": each({"type": "array", "items": COUNT, "minItems": 2, "maxItems": 2}),
        "hops?": COUNT,
        "hop_ms?": NUMBER,
        "queue_ms?": NUMBER,
        "first_token_ms?": NUMBER,
        "prefill_tok_s?": NUMBER,
        "decode_tok_s?": NUMBER,
        "warning?": TEXT,
    }
)
"What only this server says of an answer, in `x_aitorrent`."
