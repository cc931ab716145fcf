"""What a check finds, and how the result is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of one check."""

    name: str
    plugin: str
    summary: str
    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""
