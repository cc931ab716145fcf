"""JSON documents in a body split at arbitrary points: one per line, or one over many. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_BOM: Final = b"\xef\xbb\xbf"
_SPACE: Final = re.compile(r"\s*")
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Lines:
    """Splits bytes into lines at line feeds; a trailing carriage return stays in the line."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def __len__(self) -> int:
        """Bytes of the incomplete line."""
        return len(self._rest)

    def feed(self, more: bytes) -> list[bytes]:
        """The lines that `more` completes."""
        first, *others = more.split(b"\n")
        self._rest += first
        if not others:
            return []
        lines = [bytes(self._rest), *others[:-1]]
        self._rest = bytearray(others[-1])
        return lines

    def end(self) -> bytes:
        """What follows the last line feed."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest


class JsonDocuments:
    """Assembles JSON documents from lines."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def __len__(self) -> int:
        """Bytes of the incomplete document."""
        return len(self._begun)

    def add(self, line: bytes) -> bytes | None:
        """The document that `line` completes."""
        if not self._begun:
            line = line.removeprefix(_BOM)
        if not line.strip():
            return None
        self._begun += line + b"\n"
        # Inner lines of a multi-line document are indented: do not try to parse at each one.
        is_end = line[:1] in b"{[}]" and line.rstrip()[-1:] in b"]}"
        return self.end() if is_end and _is_json(bytes(self._begun)) else None

    def end(self) -> bytes:
        """The pending document, complete or not; empty when there is none."""
        begun, self._begun = bytes(self._begun).strip(), bytearray()
        return begun


def _is_json(text: bytes) -> bool:
    try:
        values_in(text)
    except (ValueError, RecursionError):
        return False
    return True


def values_in(text: bytes, between: Mapping[str, Any] = _NOTHING) -> list[Any]:
    """The JSON values in `text`: one, or several back to back, as servers send them that forget
    line feeds.

    `between` has words that may stand between values, each with the value that it stands for, or
    None.

    Raises:
        ValueError: anything else is in it. RecursionError: a value is nested too deeply.
    """
    try:
        return [json.loads(text)]
    except ValueError:
        whole, decoder = text.decode("utf-8-sig"), json.JSONDecoder()
    values: list[Any] = []
    at = _end_of_space(whole, 0)
    while at < len(whole):
        word = next((word for word in between if whole.startswith(word, at)), None)
        if word is None:
            value, at = decoder.raw_decode(whole, at)
            values.append(value)
        else:
            at += len(word)
            values += [] if between[word] is None else [between[word]]
        at = _end_of_space(whole, at)
    if not values:
        raise ValueError("no JSON value")
    return values


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
