"""Models that were added by command, kept in one file beside the configuration's."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from aitorrent_shards.config import ModelEntry
from aitorrentd.api import Unavailable, read_regular, replace_file, set_aside

MAX_BYTES: Final = 2**20


class AddedModels:
    """The entries, in order of adding; a damaged file is set aside, and the list starts empty."""

    def __init__(self, path: Path, log: logging.Logger) -> None:
        self._path = path
        self._log = log
        self.problem = ""
        "Why earlier entries are missing; else empty."

    def load(self) -> list[ModelEntry]:
        """The saved entries."""
        try:
            rows = json.loads(read_regular(self._path, MAX_BYTES))
            return [ModelEntry.model_validate(row) for row in rows]
        except FileNotFoundError:
            return []
        except OSError as e:
            self.problem = f"{self._path} cannot be read: {e.strerror}"
        except (ValueError, TypeError, RecursionError, ValidationError):
            self.problem = f"{self._path} was damaged; {self._moved()}. Add the models again."
        self._log.warning("models added by command are missing: %s", self.problem)
        return []

    def _moved(self) -> str:
        try:
            return f"it is now {set_aside(self._path)}"
        except OSError as e:
            return f"it cannot be moved aside: {e.strerror}"

    def save(self, entries: Sequence[ModelEntry]) -> None:
        """Replace the file.

        Raises:
            Unavailable: it cannot be written.
        """
        rows = [entry.model_dump(mode="json", exclude_defaults=True) for entry in entries]
        try:
            replace_file(self._path, json.dumps(rows, indent=1).encode())
        except OSError as e:
            raise Unavailable(f"models cannot be saved: {e.strerror}; free some space") from None
