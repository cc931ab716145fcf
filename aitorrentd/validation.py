"""From a raw settings table to a validated model, with messages that a person can act on.

`plugins.dht.prot: unknown key; did you mean port?` instead of pydantic's own wording. Values never
appear in a message, because any of them may be a secret.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from aitorrentd.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

_MAPPINGS: Final = (dict, Mapping)
_PHRASES: Final = {
    "missing": "missing; it must be set",
    "model_type": "should be a table of settings",
    "dict_type": "should be a table of settings",
    "mapping_type": "should be a table of settings",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    "string_type": "should be text",
}


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean port?` when one of `known` is close to `word`, else nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_plugin(word: str, names: Iterable[str]) -> str:
    """The one of `names` that `word` is a slip of, or the beginning of; empty when there is none.

    Stricter than `suggestion`: the names of plugins are few, so that one is always nearest.
    """
    known = list(names)
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    near = get_close_matches(word[:64], known, n=1, cutoff=0.75) or begun[:1]
    return near[0] if near else ""


def validated(prefix: str, model: type[M], table: object) -> M:
    """`table` as an instance of `model`.

    Raises:
        ConfigError: it does not fit; `problems` has one line for each setting that is wrong.
    """
    try:
        return model.model_validate(table)
    except ValidationError as e:
        found = problems(prefix, e, model)
        raise ConfigError("\n".join(found), problems=found) from None


def problems(prefix: str, error: ValidationError, model: type[BaseModel]) -> tuple[str, ...]:
    """What `error` says about a table of `model`, one line for each wrong setting.

    Each line starts with the setting's path, which starts with `prefix` (may be empty). The
    members of a union that all refused a value share one line.
    """
    lines: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_input=False):
        unknown = item["type"] == "extra_forbidden"
        path, known = _path(prefix, item["loc"], model, ends_unknown=unknown)
        if unknown:
            text = "unknown key" + suggestion(str(item["loc"][-1]), known)
        else:
            text = _PHRASES.get(item["type"]) or _plain(item["msg"])
        texts = lines.setdefault(path, [])
        if text not in texts:
            texts.append(text)
    return tuple(f"{path or 'settings'}: {', or '.join(texts)}" for path, texts in lines.items())


def _plain(message: str) -> str:
    for start in ("Input should ", "Value error, ", "Assertion failed, "):
        if message.startswith(start):
            kept = "should " if start == "Input should " else ""
            return kept + message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _path(
    prefix: str, loc: tuple[int | str, ...], model: type[BaseModel], *, ends_unknown: bool
) -> tuple[str, tuple[str, ...]]:
    """The path of `loc` as a person writes it, and the keys known in the table it ends in.

    pydantic puts the names of union members into `loc`; they are no part of the file, so the
    walk follows the annotations and leaves out what is neither field, key nor index.
    """
    path = prefix
    here: tuple[Any, ...] = (model,)
    known: tuple[str, ...] = ()
    for position, part in enumerate(loc):
        known = tuple(key for kind in here for key in _keys(kind))
        if isinstance(part, int):
            path += f"[{part}]"
            here = _members(arg for kind in here for arg in get_args(kind))
            continue
        if (inner := _step(here, part)) is not None:
            here = inner
        elif not (ends_unknown and position == len(loc) - 1):
            continue
        path = f"{path}.{part}" if path else part
    return path, known


def _step(here: tuple[Any, ...], part: str) -> tuple[Any, ...] | None:
    """The types below key `part` of any of `here`; None when none of them has such a key."""
    for kind in here:
        if part in _keys(kind):
            field = kind.model_fields.get(part) or next(
                f for f in kind.model_fields.values() if f.alias == part
            )
            return _members([field.annotation])
    for kind in here:
        if get_origin(kind) in _MAPPINGS and part != "[key]":
            return _members(get_args(kind)[1:])
    return None


def _keys(kind: Any) -> tuple[str, ...]:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return ()
    return tuple(field.alias or name for name, field in kind.model_fields.items())


def _members(kinds: Iterable[Any]) -> tuple[Any, ...]:
    """`kinds` with unions and annotations taken apart."""
    flat: list[Any] = []
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Annotated:
            flat += _members(get_args(kind)[:1])
        elif origin is Union or origin is types.UnionType:
            flat += _members(get_args(kind))
        else:
            flat.append(kind)
    return tuple(flat)
