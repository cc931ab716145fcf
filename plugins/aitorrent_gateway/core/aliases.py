"""Further names of models: those of the settings, and those that clients of Ollama made by copying.

The latter are kept in one file. They come from programs: their form is checked, and their number
limited.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aitorrentd.api import (
    Busy,
    InvalidParams,
    Unavailable,
    read_regular,
    replace_file,
    set_aside,
)

MAX_SAVED: Final = 100
MAX_MODEL_CHARS: Final = 256
_MAX_BYTES: Final = 2**18
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
# HOST/NAMESPACE/MODEL:TAG, as Ollama's names.
_NAME: Final = re.compile(rf"(?:{_PART}/){{0,2}}{_PART}(?::{_PART})?", re.ASCII)


class Aliases:
    """Models' own names, by their further names; those of the settings win."""

    def __init__(self, configured: Mapping[str, str], path: Path, log: logging.Logger) -> None:
        self.problem = ""
        "Why names that clients made are missing; else empty."
        self._configured = dict(configured)
        self._saved: dict[str, str] = {}
        self._path, self._log = path, log
        self._turn = asyncio.Lock()

    def names(self) -> Mapping[str, str]:
        """All of them."""
        return self._saved | self._configured

    def is_configured(self, name: str) -> bool:
        """Whether the settings have this name."""
        return name in self._configured

    def is_saved(self, name: str) -> bool:
        """Whether a client made this name, and the settings do not have it."""
        return name in self._saved and name not in self._configured

    async def load(self) -> None:
        """Read the names that clients made; a damaged file is set aside."""
        self._saved = await asyncio.to_thread(self._read)
        if self.problem:
            self._log.warning("further names of models are missing: %s", self.problem)

    async def save(self, name: str, model: str) -> None:
        """Let `name` mean a model, also after a restart.

        Raises:
            InvalidParams: the name has another form. Busy: there are too many. Unavailable: it
            cannot be saved.
        """
        if not _NAME.fullmatch(name):
            raise InvalidParams(f'destination "{name[:100]}" is invalid', param="destination")
        async with self._turn:
            if name not in self._saved and len(self._saved) >= MAX_SAVED:
                raise Busy(f"there are {MAX_SAVED} copies of models; delete one first")
            await self._replace({**self._saved, name: model})

    async def forget(self, *names: str) -> None:
        """Forget names that clients made.

        Raises:
            Unavailable: it cannot be saved.
        """
        async with self._turn:
            if any(name in self._saved for name in names):
                await self._replace({n: m for n, m in self._saved.items() if n not in names})

    async def forget_model(self, model: str) -> None:
        """Forget what clients called a model that is gone; errors as for `forget`."""
        await self.forget(*(name for name, own in self._saved.items() if own == model))

    async def _replace(self, saved: dict[str, str]) -> None:
        content = json.dumps(saved, indent=1).encode()
        try:
            await asyncio.to_thread(replace_file, self._path, content)
        except OSError as e:
            raise Unavailable(
                f"names of models cannot be saved: {e.strerror}; free some space"
            ) from None
        self._saved = saved

    def _read(self) -> dict[str, str]:
        try:
            rows = json.loads(read_regular(self._path, _MAX_BYTES))
            pairs = list(rows.items())
            if len(pairs) > MAX_SAVED or not all(_is_pair(*pair) for pair in pairs):
                raise ValueError("other than written")
            return dict(pairs)
        except FileNotFoundError:
            return {}
        except OSError as e:
            self.problem = f"{self._path} cannot be read: {e.strerror}"
        except (ValueError, TypeError, AttributeError, RecursionError):
            self.problem = f"{self._path} was damaged; {self._moved()}. Copy the models again."
        return {}

    def _moved(self) -> str:
        try:
            return f"it is now {set_aside(self._path)}"
        except OSError as e:
            return f"it cannot be moved aside: {e.strerror}"


def _is_pair(name: object, model: object) -> bool:
    return (
        isinstance(name, str)
        and _NAME.fullmatch(name) is not None
        and isinstance(model, str)
        and 0 < len(model) <= MAX_MODEL_CHARS
    )
