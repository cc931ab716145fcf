"""Fields of requests, from strangers: what is wrong is said with the client's own name. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any, Final, TypeGuard

from pydantic import ValidationError

from aitorrentd.api import InvalidParams

MAX_SEED: Final = 2**63
LIKELIEST_TOP_P: Final = 1e-6
"For a top_p of 0, with which the servers of every dialect take the likeliest token."
_IMAGE_PARTS: Final = ("image_url", "input_image", "image")
_HEADER_SAFE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}", re.ASCII)
_MOST_IGNORED: Final = 20
_RULES: Final = {
    "missing": "is required",
    "extra_forbidden": "is unknown",
    **dict.fromkeys(("string_type", "string_unicode"), "must be a string"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type"), "must be an object"),
    "finite_number": "must be a finite number",
    "literal_error": "must be one of {expected}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
}
"What a field must be, by pydantic's type of error."
_QUOTED: Final = re.compile(r'"([a-z_]+)" ')


def present(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null, which counts as absent."""
    return {key: value for key, value in body.items() if value is not None}


def wrong(name: str, text: str, code: str = "invalid_value") -> InvalidParams:
    """An error about a field."""
    return InvalidParams(f"{name} {text}", param=name, http_code=code)


def unsupported(name: str) -> InvalidParams:
    """An error about a field that this server cannot do."""
    return wrong(name, "is not supported by this server; leave it out", "unsupported_value")


def flag(name: str, value: Any) -> bool:
    """A boolean.

    Raises:
        InvalidParams: it is none.
    """
    if not isinstance(value, bool):
        raise wrong(name, "must be true or false")
    return value


def text_of(name: str, value: Any) -> str:
    """A text.

    Raises:
        InvalidParams: it is none.
    """
    if not isinstance(value, str):
        raise wrong(name, "must be a string")
    return value


def one_of(name: str, value: Any, choices: Mapping[str, Any]) -> Any:
    """What a word stands for.

    Raises:
        InvalidParams: it is not among the choices.
    """
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, f"must be one of {', '.join(choices)}")
    return choices[value]


def explained(error: ValidationError) -> InvalidParams:
    """The first problem, with the path to the field, and without what was sent."""
    found = error.errors(include_url=False, include_input=False)[0]
    path = [part for part in found["loc"] if part != "params"]
    name = ""
    if "[key]" in path:  # of an object whose keys are data, as those of logit_bias
        whole, key = str(path[0]), str(path[-2])
        must = _RULES.get(found["type"], found["msg"]).format_map(found.get("ctx", {}))
        return InvalidParams(f"{whole} has the key {key[:40]!r}, which {must}", param=whole)
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    text = found["msg"].removeprefix("Value error, ")
    if name and (rule := _RULES.get(found["type"])):
        return InvalidParams(f"{name} {rule.format_map(found.get('ctx', {}))}", param=name)
    if name:
        return InvalidParams(f"{name}: {text}", param=name)
    named = _QUOTED.match(text)  # what is wrong with two fields together
    return InvalidParams(text, param=named[1] if named else None)


def refuse_fetching(name: str, url: object) -> None:
    """Images come in the request: a URL would make a server fetch what only it can reach.

    Raises:
        InvalidParams: `url` is not a data: URL.
    """
    if not is_inside(url):
        raise wrong(name, "has an image that is not a data: URL; the server fetches no URLs")


def whole(value: object) -> object:
    """A number such as 1.0 as the integer that it is; clients in JavaScript and Lua have one kind
    of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def top_p_of(value: object) -> object:
    """A top_p as this node takes it: above 0."""
    return LIKELIEST_TOP_P if type(value) in (int, float) and value == 0 else value


def seed_of(value: object) -> int:
    """A seed as this node takes it; clients also send negative ones, and 1.0 for 1.

    Raises:
        InvalidParams: it is no integer.
    """
    value = whole(value)
    if type(value) is not int:
        raise wrong("seed", "must be an integer")
    return value % MAX_SEED


def parts_of(name: str, value: Any) -> Any:
    """A content as `Message` takes it: of parts as OpenAI has them, a refusal becomes text.

    Raises:
        InvalidParams: an image is not in the request.
    """
    if not isinstance(value, list):
        return value
    parts: list[Any] = []
    for each in value:
        kind = each.get("type") if isinstance(each, dict) else None
        if kind == "refusal":
            parts.append({"type": "text", "text": each.get("refusal")})
            continue
        if isinstance(kind, str) and kind in _IMAGE_PARTS:
            image = each.get("image_url", each.get("image"))
            refuse_fetching(name, image.get("url") if isinstance(image, dict) else image)
        parts.append(each)
    return parts


def images_of(name: str, value: object) -> None:
    """Check the images beside a content.

    Raises:
        InvalidParams: one is not in the request.
    """
    for image in value if isinstance(value, list) else ():
        if isinstance(image, str) and ":" in image:  # base64 has no colon
            refuse_fetching(name, image)


def is_inside(url: object) -> TypeGuard[str]:
    """Whether it is a data: URL, so that what it names is in the request."""
    return isinstance(url, str) and url.startswith("data:")


def ignored_header(
    fields: Mapping[str, Any], known: Set[str], inner: Iterable[str] = ()
) -> dict[str, str]:
    """A header that names the fields that nobody knows, as far as they can stand in one; `inner`
    are such fields below the top, as `messages.name`."""
    names = {*(fields.keys() - known), *inner}
    unknown = sorted(name for name in names if _HEADER_SAFE.fullmatch(name))
    return {"x-aitorrent-ignored": ", ".join(unknown[:_MOST_IGNORED])} if unknown else {}
