"""JSON documents in a body that is cut anywhere: one for each line, or one over many. No I/O."""

from __future__ import annotations

import json
from typing import Final

_BOM: Final = b"\xef\xbb\xbf"


class Lines:
    """Cuts bytes into lines that end with a line feed; carriage returns are left at their ends."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def __len__(self) -> int:
        """Bytes of the line that has begun."""
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
        """What stands after the last line feed."""
        rest, self._rest = bytes(self._rest), bytearray()
        return rest


class JsonDocuments:
    """Puts the lines of JSON documents together."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def __len__(self) -> int:
        """Bytes of the document that has begun."""
        return len(self._begun)

    def add(self, line: bytes) -> bytes | None:
        """The document that `line` completes."""
        if not self._begun:
            line = line.removeprefix(_BOM)
        if not line.strip():
            return None
        self._begun += line + b"\n"
        # An inner line of a document over many lines is indented: not looked at each time.
        is_end = line[:1] in b"{[}]" and line.rstrip()[-1:] in b"]}"
        return self.end() if is_end and _is_json(bytes(self._begun)) else None

    def end(self) -> bytes:
        """The document that has begun, be it whole or not; empty when there is none."""
        begun, self._begun = bytes(self._begun).strip(), bytearray()
        return begun


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
