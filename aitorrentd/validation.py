"""Validates a raw settings table into a model, with messages that users can act on.

`plugins.dht.prot: unknown key; did you mean port?` instead of pydantic's own wording. Messages
quote numbers but never text values, because any of them may be a secret.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from aitorrentd.errors import ConfigError, InvalidParams
from aitorrentd.setting_path import SettingPath, key_text, names_secret

M = TypeVar("M", bound=BaseModel)

_MAPPINGS: Final = (dict, Mapping)
_PHRASES: Final = {
    "missing": "missing; set it",
    "model_type": "should be a table of settings",
    "dict_type": "should be a table of settings",
    "mapping_type": "should be a table of settings",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "should be a list"),
    "string_type": "should be text",
    "finite_number": "should be a finite number",
}
_SAYS_FOUND: Final = frozenset(
    {*_PHRASES, "literal_error", "enum", "none_required"}
    | {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
) - {"missing", "finite_number"}
"Kinds of errors whose message ends with the actual type."
_CHOICE: Final = re.compile(r"'([^']+)'")
"A word that a setting may be, as pydantic quotes it."
_UNIT: Final = re.compile(r"\s*[-+]?[\d.]+\s*[a-zµ]+\s*", re.I)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with one setting."""

    path: SettingPath
    text: str

    def __str__(self) -> str:
        return f"{key_text(self.path) or 'settings'}: {self.text}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean port?` if one of `known` is close to `word`, else an empty string."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def nearest_plugin(word: str, names: Iterable[str]) -> str:
    """The one of `names` that `word` misspells or abbreviates; empty if there is none.

    Stricter than `suggestion`: plugin names are few, so one is always nearest.
    """
    known = list(names)
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    near = get_close_matches(word[:64], known, n=1, cutoff=0.75) or begun[:1]
    return near[0] if near else ""


def validated(prefix: SettingPath, model: type[M], table: object) -> M:
    """`table`, located at `prefix`, as an instance of `model`.

    Raises:
        ConfigError: it is invalid; `problems` has one line for each invalid setting.
    """
    try:
        return model.model_validate(table)
    except ValidationError as e:
        lines = tuple(map(str, problems(prefix, e, model)))
        raise ConfigError("\n".join(lines), problems=lines) from None


def problems(
    prefix: SettingPath, error: ValidationError, model: type[BaseModel]
) -> tuple[Problem, ...]:
    """What `error` says about a table of `model` at `prefix`, once for each invalid setting.

    The members of a union that all rejected a value share one message.
    """
    texts: dict[SettingPath, list[str]] = {}
    ends: dict[SettingPath, str] = {}
    for item in error.errors(include_url=False):
        unknown = item["type"] == "extra_forbidden"
        path, known = _path(prefix, item["loc"], model, ends_unknown=unknown)
        if unknown:
            text = "unknown key" + suggestion(str(item["loc"][-1]), known)
        else:
            text = _PHRASES.get(item["type"]) or _plain(item["msg"])
        told = texts.setdefault(path, [])
        if text not in told:
            told.append(text)
        if item["type"] in _SAYS_FOUND:
            ends[path] = _found(path, item["input"], told)
    return tuple(Problem(p, ", or ".join(told) + ends.get(p, "")) for p, told in texts.items())


def _found(path: SettingPath, value: object, told: list[str]) -> str:
    """`, not text`: the actual type, and the remedy; of a wrong word only the remedy."""
    kind = kind_text(value)
    if names_secret(path) and isinstance(value, int | float):
        kind = "a number"
    if isinstance(value, str):
        if choices := [word for text in told for word in _CHOICE.findall(text)]:
            return suggestion(value, choices)
        is_number = any("number" in text for text in told)
        if is_number and value.strip().startswith("$"):
            return f", not {kind}; write {{env: NAME}} for an environment variable"
        if is_number and _UNIT.fullmatch(value):
            unit = "seconds" if path and str(path[-1]).endswith("_s") else "the number"
            return f", not text; write {unit} without a unit"
    elif "should be text" in told and isinstance(value, bool | int | float):
        return f", not {kind}; write it in quotes"
    return f", not {kind}"


def kind_text(value: object) -> str:
    """The type of a value in plain words; numbers themselves, but never text."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    names: tuple[tuple[tuple[type, ...], str], ...] = (
        ((str,), "text"),
        ((list, tuple), "a list"),
        ((Mapping,), "a table"),
    )
    return next((name for kinds, name in names if isinstance(value, kinds)), type(value).__name__)


def _plain(message: str) -> str:
    for start in ("Input should ", "Value error, ", "Assertion failed, "):
        if message.startswith(start):
            kept = "should " if start == "Input should " else ""
            return kept + message.removeprefix(start)
    return message[:1].lower() + message[1:]


def _path(
    prefix: SettingPath, loc: tuple[int | str, ...], model: type[BaseModel], *, ends_unknown: bool
) -> tuple[SettingPath, tuple[str, ...]]:
    """The path of `loc` in the file, and the known keys of the table where it ends.

    pydantic puts the names of union members into `loc`. They are not part of the file, so the walk
    follows the annotations and skips what is neither field, key nor index.
    """
    path = prefix
    here: tuple[Any, ...] = (model,)
    known: tuple[str, ...] = ()
    for position, part in enumerate(loc):
        known = tuple(key for kind in here for key in _keys(kind))
        if isinstance(part, int):
            path = (*path, part)
            here = _members(arg for kind in here for arg in get_args(kind))
            continue
        if (inner := _step(here, part)) is not None:
            here = inner
        elif not (ends_unknown and position == len(loc) - 1):
            continue
        path = (*path, part)
    return path, known


def _step(here: tuple[Any, ...], part: str) -> tuple[Any, ...] | None:
    """The types below key `part` of any of `here`; None if none of them has such a key."""
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
    """`kinds` with unions and annotations unwrapped."""
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


def checked_params(model: type[M], params: Mapping[str, Any], method: str) -> M:
    """Parameters of a control method.

    Raises:
        InvalidParams: it lists each problem.
    """
    try:
        return model.model_validate(params)
    except ValidationError as e:
        found = tuple(map(str, problems((), e, model)))
        raise InvalidParams(f"{method}: {'; '.join(found)}", problems=list(found)) from None
