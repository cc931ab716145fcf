"""Base types for settings models, so that every setting is parsed and rejected the same way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from aitorrentd.system.paths import stray_characters

_UNITS: Final = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_UNITS_10: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE: Final = re.compile(r"\s*(\d{1,15})\s*([A-Za-z]{0,3})\s*")
_PER_SECOND: Final = re.compile(r"(.*?)\s*/\s*s\s*")
_VARIABLE: Final = re.compile(r"\$\{?[A-Za-z_]")


class SettingsTable(BaseModel):
    """A table of settings: unknown keys are errors, numbers are finite, values are frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic reads `port: true` as port 1.
        if isinstance(value, bool) and info.field_name in cls.model_fields:
            kinds = _members(cls.model_fields[info.field_name].annotation)
            if not kinds & {bool, Any, object} and kinds & {int, float}:
                raise ValueError(f"should be a number, not {str(value).lower()}")
        return value


def _members(kind: Any) -> set[Any]:
    inner = {member for arg in get_args(kind) for member in _members(arg)}
    return inner or {kind}


def absolute_path(value: Any) -> Any:
    """A path from a setting's text, with `~` expanded; other types are left to pydantic.

    Raises:
        ValueError: it is empty, has stray characters, or depends on the working directory or the
        environment.
    """
    if not isinstance(value, str | Path):
        return value
    text = os.fspath(value)
    if not text.strip():
        raise ValueError("is empty; leave the key out for the default")
    if "\0" in text:
        raise ValueError("has a NUL character")
    if stray := stray_characters(text):
        raise ValueError(f"{text!r} {stray}")
    if _VARIABLE.search(text):
        raise ValueError(f"{text}: environment variables are not expanded; write an absolute path")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        whose = Path(text).parts[0].removeprefix("~")
        raise ValueError(
            f"{text}: {whose or 'this user'} has no home directory; write an absolute path"
        ) from None
    if not path.is_absolute():
        raise ValueError(
            f"{text} is relative, and would depend on where the daemon is started; "
            "write an absolute path"
        )
    return path


OptionalPath = Annotated[Path | None, BeforeValidator(absolute_path)]
"A path that means the same wherever the daemon starts; `~` stands for a home directory."


def parse_size(value: Any) -> Any:
    """Bytes from `1GiB`, `512 MiB`, `2GB` or a plain number; other types are left to pydantic.

    Raises:
        ValueError: text that is not a size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    unit = match[2].upper() if match else "?"
    factor = (_UNITS | _UNITS_10).get(unit)
    if match is None or factor is None:
        raise ValueError(f"{value!r} is not a size; write 512MiB, 1GiB, 2GB or a number of bytes")
    return int(match[1]) * factor


def parse_rate(value: Any) -> Any:
    """Bytes per second from `2 MiB/s` or a plain number; other types are left to pydantic.

    Raises:
        ValueError: text that is not a rate.
    """
    if not isinstance(value, str):
        return value
    match = _PER_SECOND.fullmatch(value)
    try:
        return parse_size(match[1] if match else value)
    except ValueError:
        raise ValueError(
            f"{value!r} is not a rate; write 512KiB/s, 2MiB/s or a number of bytes per second"
        ) from None


Size = Annotated[int, BeforeValidator(parse_size)]
"A number of bytes, written as 512MiB, 2GB or a plain number."
Rate = Annotated[int, BeforeValidator(parse_rate)]
"A number of bytes per second, written as 2MiB/s or a plain number."
