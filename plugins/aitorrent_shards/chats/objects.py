"""JSON objects in a stream of text, and the calls in them. No I/O."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection
from typing import Final

from pydantic import ValidationError

from aitorrentd.api.models.tools import ToolCall

_ALPHABET: Final = string.ascii_letters + string.digits
_ID_CHARS: Final = 9
_KEYS: Final = ("arguments", "parameters")


class ObjectScanner:
    """Finds the end of a JSON object that arrives in pieces; braces in strings do not count."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._depth = 0
        self.in_string = self._is_escaped = False
        self._controls: list[int] = []
        "Where the last text has control characters inside strings."

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken."""
        return not self._parts

    @property
    def text(self) -> str:
        """What was taken so far."""
        return "".join(self._parts)

    def feed(self, text: str) -> int | None:
        """Take `text` up to the end of the object; returns how many characters that is, or None if
        the object goes on. The object begins with the first character."""
        self._controls = []
        for at, char in enumerate(text):
            if self.in_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self.in_string = False
                elif char < " ":
                    self._controls.append(at)
            elif char == '"':
                self.in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self._parts.append(text[: at + 1])
                    return at + 1
        self._parts.append(text)
        return None

    def valid(self, text: str) -> str:
        """What was taken last as JSON takes it: models write line feeds inside strings."""
        if not self._controls:
            return text
        chars = list(text)
        for at in self._controls:
            chars[at] = json.dumps(text[at])[1:-1]
        return "".join(chars)


def new_call_id() -> str:
    """An id for a call: nine letters and digits, since Mistral's templates take no other."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))


def call_in(text: str, names: Collection[str]) -> ToolCall | None:
    """The call that a JSON object writes, if it is one of an offered tool."""
    try:
        found = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("name") not in names:
        return None
    given = next((found[key] for key in _KEYS if key in found), None)
    return call_of(str(found["name"]), given)


def call_of(name: str, arguments: object) -> ToolCall | None:
    """A call with parsed arguments; None and empty ones are an empty object. A model may write the
    object as a text in JSON."""
    if isinstance(arguments, str) and arguments.strip():
        try:
            arguments = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            return None
    try:
        if not isinstance(arguments or {}, dict):
            return None
        return ToolCall(id=new_call_id(), name=name, arguments=json_of(arguments or {}))
    except (ValueError, RecursionError, ValidationError):
        return None


def json_of(value: object) -> str:
    """The value in JSON, with half a surrogate pair as an escape.

    Raises:
        ValueError, RecursionError: JSON cannot have it.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
