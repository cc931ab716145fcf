"""Calls that are passed on while the model still writes their arguments. No I/O.

A call begins once it names an offered tool and its arguments begin. From then on it stays a call,
also where the model writes no valid JSON: what was passed on cannot be taken back, so the arguments
are what the model wrote, for the caller to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from aitorrent_shards.chats.objects import ObjectScanner, call_in, new_call_id
from aitorrent_shards.chats.pieces import Piece
from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import MAX_ARGUMENTS, ToolCall

_SPACE: Final = " \t\r\n"
_OTHER: Final = r'(?:"(?:type|id)"\s*:\s*"[^"\\]{0,256}"\s*,\s*)?'
_HEAD: Final = re.compile(
    rf'\{{\s*{_OTHER}"name"\s*:\s*"([^"\\]{{1,128}})"\s*,\s*{_OTHER}'
    r'"(?:arguments|parameters)"\s*:\s*'
)
"A call in an object up to its arguments; in another order it is read as a whole."
_MAX_HEAD: Final = 1024


class BegunCall:
    """A call with its name, and the arguments so far."""

    def __init__(self, name: str) -> None:
        self._ident, self._name = new_call_id(), name
        self._parts: list[str] = []
        self._size = 0
        self._passed = -1
        "Parts that were passed on; -1 before the call was."

    def add(self, arguments: str) -> None:
        """The arguments go on; no further than a call may be long."""
        arguments = arguments[: MAX_ARGUMENTS - self._size]
        self._size += len(arguments)
        self._parts.append(arguments)

    def news(self) -> list[Piece]:
        """What was not passed on yet."""
        if self._passed == len(self._parts):
            return []
        part = CallPart("".join(self._parts[max(self._passed, 0) :]))
        if self._passed < 0:
            part = CallPart(part.arguments, self._ident, self._name)
        self._passed = len(self._parts)
        return [Piece(part=part)]

    def call(self) -> ToolCall:
        """The call as it is now."""
        return ToolCall(id=self._ident, name=self._name, arguments="".join(self._parts))


class ArgumentsScanner:
    """Takes the object of a call's arguments, after the name of its tool."""

    def __init__(self, name: str, names: Collection[str]) -> None:
        self._name = name if name in names else ""
        self._object = ObjectScanner()
        self._space = ""
        self.begun: BegunCall | None = None
        self.is_whole = False
        "Whether the arguments are complete."

    @property
    def is_empty(self) -> bool:
        """Whether nothing but white space was taken."""
        return self._object.is_empty

    @property
    def in_string(self) -> bool:
        """Whether what comes next is inside a text of the arguments."""
        return self._object.in_string

    @property
    def text(self) -> str:
        """What was taken so far."""
        return self._space + self._object.text

    def feed(self, text: str) -> str | None:
        """Take `text` up to the end of the object, or to where it turns out to be none; returns
        what follows, or None if more is needed."""
        if self._object.is_empty:
            rest = text.lstrip(_SPACE)
            self._space += text[: len(text) - len(rest)]
            if not rest:
                return None
            if rest[0] != "{":
                return rest
            text = rest
            if self._name:
                self.begun = BegunCall(self._name)
        end = self._object.feed(text)
        if self.begun is not None:
            self.begun.add(self._object.valid(text[:end]))
        self.is_whole = end is not None
        return None if end is None else text[end:]

    def call(self) -> ToolCall | None:
        """The call; None if it is none of an offered tool."""
        return None if self.begun is None else self.begun.call()


class ObjectCallScanner:
    """Takes a call that is an object with a name and arguments."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._outer = ObjectScanner()
        self._inner: ArgumentsScanner | None = None
        self._head: str | None = ""
        "What may be the begin of a call that can be passed on; None after it."
        self._is_tail = False

    @property
    def begun(self) -> BegunCall | None:
        """The call once its arguments begin."""
        return None if self._inner is None else self._inner.begun

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are complete."""
        return self._inner is not None and self._inner.is_whole

    @property
    def in_string(self) -> bool:
        """Whether what comes next is inside a text of the object."""
        is_inner = self._inner is not None and not self._inner.is_whole
        return self._inner.in_string if is_inner and self._inner else self._outer.in_string

    @property
    def text(self) -> str:
        """What was taken so far."""
        return self._outer.text

    def feed(self, text: str) -> str | None:
        """As in CallScanner."""
        if self._head is not None:
            at = text.find("{", 0 if self._head else 1)
            taken = text if at < 0 else text[:at]
            end = self._outer.feed(taken)
            if end is not None:
                return text[end:]
            self._head += taken
            if at < 0 and len(self._head) <= _MAX_HEAD:
                return None
            text = text[len(taken) :]
            self._leave_head()
        if self._inner is not None and not self._inner.is_whole:
            after = self._inner.feed(text)
            if after is None:
                return None
            text = after
        if self._inner is not None and not self._is_tail:
            text = text.lstrip(_SPACE)
            if not text:
                return None
            if text[0] not in ",}":  # the model left out the last brace
                return text
            self._is_tail = True
        end = self._outer.feed(text)
        return None if end is None else text[end:]

    def call(self) -> ToolCall | None:
        """As in CallScanner."""
        if self._inner is not None:
            return self._inner.call()
        return call_in(self._outer.text, self._names)

    def _leave_head(self) -> None:
        """Decide by what was taken whether the arguments begin here."""
        head, self._head = self._head or "", None
        found = _HEAD.fullmatch(head) if len(head) <= _MAX_HEAD else None
        if found is not None and found[1] in self._names:
            self._inner = ArgumentsScanner(found[1], self._names)
