"""Values of which many are made in a short time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def light(cls: type[T]) -> type[T]:
    """Make a class a dataclass with slots, which only type checkers keep from being changed.

    One that is frozen at run time takes five times as long to make, as each field is set by a call:
    with 15 fields 4.2 instead of 0.8 µs (Python 3.11). That is too long for what each token needs.
    """
    return dataclass(slots=True)(cls)
