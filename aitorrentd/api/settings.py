"""Base types for settings models, so that every setting is parsed and rejected the same way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from aitorrentd.system.paths import stray_characters

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
