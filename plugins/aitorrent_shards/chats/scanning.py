"""Calls whose name and arguments stand between tags, in a stream of text. No I/O.

A scanner takes one call, beginning with its first character. What it took and is none, it has as
text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

from aitorrent_shards.chats.begun import ArgumentsScanner, BegunCall
from aitorrent_shards.chats.formats import Syntax, ToolFormat
from aitorrent_shards.chats.objects import json_of
from aitorrent_shards.chats.values import value_of
from aitorrentd.api.models.tools import ToolCall

Offered = Mapping[str, Mapping[str, Any]]
"The JSON Schemas of the offered tools' arguments, by the tools' names."
_MAX_NAME: Final = 256
_MAX_HEAD: Final = 512
_MAX_SPACE: Final = 64
_MAX_ARGUMENTS: Final = 2**20
_SPACE: Final = " \t\r\n"


class CallScanner(Protocol):
    """Finds the end of a call that arrives in pieces."""

    @property
    def text(self) -> str:
        """What was taken so far."""

    @property
    def begun(self) -> BegunCall | None:
        """The call once it can be passed on in parts."""

    @property
    def is_whole(self) -> bool:
        """Whether the arguments are complete, if the call has begun."""

    @property
    def in_string(self) -> bool:
        """Whether what comes next is inside a text in JSON."""

    def feed(self, text: str) -> str | None:
        """Take `text` up to the end of the call, or up to where it turns out to be none; returns
        what follows, or None if more is needed."""

    def call(self) -> ToolCall | None:
        """What was found; None if it is no call."""


def call_scanner(found: ToolFormat, offered: Offered) -> CallScanner:
    """A scanner for a format whose calls have a `begin`."""
    if found.syntax is not None:
        closing = found.close.text if found.close is not None else ""
        return ParameterScanner(found.syntax, closing, offered)
    return SectionScanner(found, offered)


class _Failed(Exception):
    """No call, as the window up to `at` shows."""

    def __init__(self, at: int) -> None:
        self.at = at


class _Part(Enum):
    NAME = "the name"
    BETWEEN = "a parameter or the end comes next"
    KEY = "a parameter's name"
    VALUE = "a parameter's value"


class ParameterScanner:
    """A call with its arguments between tags: Qwen3-Coder, GLM, MiniMax."""

    def __init__(self, syntax: Syntax, closing: str, offered: Offered) -> None:
        """`closing`: the tag after the call, which may be its `end` too."""
        self._syntax, self._offered = syntax, offered
        self._raw: list[str] = []
        self._size = 0
        self._window = ""
        "Text that is not understood yet."
        self._part, self._name, self._key = _Part.NAME, "", ""
        self._value: list[str] = []
        self.begun: BegunCall | None = None
        self.is_whole = self.in_string = False
        self._count = 0
        "Arguments that are complete."
        end, space = re.escape(syntax.end), rf"\s{{0,{_MAX_SPACE}}}"
        follows = rf"(?={space}(?:{re.escape(syntax.key_open)}|{end}))"
        # A value may quote the tags; some models leave out the last closing tag of a value.
        outer = "" if syntax.end == closing else rf"|(?={end}{space}{re.escape(closing)})"
        self._ends = re.compile(rf"{re.escape(syntax.value_close)}{follows}{outer}")
        self._keep = len(syntax.value_close + syntax.key_open + syntax.end + closing) + _MAX_SPACE
        "Characters in which the end of a value may have begun."

    @property
    def text(self) -> str:
        """What was taken so far."""
        return "".join(self._raw) + self._window

    def feed(self, text: str) -> str | None:
        """As in CallScanner."""
        self._window += text
        at = 0
        try:
            while (then := self._step(at)) is not None:
                at = then
                if self.is_whole:
                    return self._rest(at)
        except _Failed as failed:
            return self._rest(failed.at)
        self._window = self._rest(at)
        return None

    def call(self) -> ToolCall | None:
        """As in CallScanner."""
        return None if self.begun is None else self.begun.call()

    def _rest(self, at: int) -> str:
        window, self._window = self._window, ""
        self._raw.append(window[:at])
        self._size += at
        return window[at:]

    def _step(self, at: int) -> int | None:
        """Go on from there; returns up to where the window is understood, or None for more."""
        match self._part:
            case _Part.NAME:
                return self._in_name(at)
            case _Part.BETWEEN:
                return self._between(at)
            case _Part.KEY:
                return self._in_key(at)
            case _:
                return self._in_value(at)

    def _in_name(self, at: int) -> int | None:
        start = at + len(self._syntax.name_open)
        rest = self._window[start:]
        found = self._named(rest)
        if found is None:
            return None
        if not found:
            # The same place, however the text arrives.
            raise _Failed(
                start + next(n for n in range(len(rest) + 1) if self._named(rest[:n]) == "")
            )
        self._name, self._part = found, _Part.BETWEEN
        return start + rest.index(found) + len(found) + len(self._syntax.name_close)

    def _named(self, text: str) -> str | None:
        """The tool that a text names and then goes on; empty if none, None if more has to tell."""
        syntax = self._syntax
        words = text.lstrip(_SPACE)
        enders = (syntax.name_close,) if syntax.name_close else (syntax.key_open, syntax.end)
        is_open = len(text) - len(words) <= _MAX_SPACE and any(
            name.startswith(words) for name in self._offered
        )
        for name in self._offered:
            if not words.startswith(name):
                continue
            after = words[len(name) :]
            tail = after if syntax.name_close else after.lstrip(_SPACE)
            if any(tail.startswith(end) for end in enders):
                return name
            is_short = len(after) - len(tail) <= _MAX_SPACE
            is_open = is_open or (is_short and any(end.startswith(tail) for end in enders))
        return None if is_open else ""

    def _between(self, at: int) -> int | None:
        syntax = self._syntax
        rest = self._window[at:].lstrip(_SPACE)
        at = len(self._window) - len(rest)
        if rest.startswith(syntax.end):
            self.is_whole = True
            self._pass_on("}" if self._count else "{}")
            return at + len(syntax.end)
        if rest.startswith(syntax.key_open):
            self._part = _Part.KEY
            return at + len(syntax.key_open)
        if syntax.end.startswith(rest) or syntax.key_open.startswith(rest):
            return None
        raise _Failed(at)

    def _in_key(self, at: int) -> int | None:
        syntax, window = self._syntax, self._window
        end = window.find(syntax.key_close, at, at + _MAX_NAME + len(syntax.key_close))
        if end < 0 and len(window) - at <= _MAX_NAME:
            return None
        if end <= at:
            raise _Failed(at)
        self._key = window[at:end].strip().removeprefix(syntax.key_open)
        at = end + len(syntax.key_close)
        if syntax.value_open:
            # Some models write the tag before twice, or leave out this one.
            rest = window[at:].lstrip(_SPACE)
            if rest != syntax.key_close and syntax.key_close.startswith(rest):
                return None
            rest = rest.removeprefix(syntax.key_close).lstrip(_SPACE)
            if rest != syntax.value_open and syntax.value_open.startswith(rest):
                return None
            if rest.startswith(syntax.value_open):
                at = len(window) - len(rest) + len(syntax.value_open)
        self._part = _Part.VALUE
        self._pass_on("")
        return at

    def _in_value(self, at: int) -> int | None:
        found = self._ends.search(self._window, at)
        if found is None:
            stop = max(at, len(self._window) - self._keep)
            self._value.append(self._window[at:stop])
            if self._size + stop > _MAX_ARGUMENTS:
                raise _Failed(stop)
            return stop if stop > at else None
        self._value.append(self._window[at : found.start()])
        value = "".join(self._value)
        if self._syntax.trims:
            value = value.removeprefix("\n").removesuffix("\n")
        self._argument(value)
        self._value, self._part = [], _Part.BETWEEN
        return found.end()

    def _argument(self, text: str) -> None:
        """An argument is complete. One that comes again counts, as in any JSON."""
        schema = self._offered[self._name]
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        try:
            value = json_of(value_of(text, known.get(self._key), schema))
        except (ValueError, RecursionError):
            value = json_of(text)
        before = ", " if self._count else "{"
        self._count += 1
        self._pass_on(f"{before}{json_of(self._key)}: {value}")

    def _pass_on(self, arguments: str) -> None:
        if self.begun is None:
            self.begun = BegunCall(self._name)
        self.begun.add(arguments)


class SectionScanner:
    """A call of DeepSeek: `name<sep>{…}`, or `function<sep>name` and the object in a fence."""

    def __init__(self, found: ToolFormat, offered: Offered) -> None:
        self._format, self._offered = found, offered
        self._head = ""
        self._object: ArgumentsScanner | None = None

    @property
    def begun(self) -> BegunCall | None:
        """As in CallScanner."""
        return None if self._object is None else self._object.begun

    @property
    def is_whole(self) -> bool:
        """As in CallScanner."""
        return self._object is not None and self._object.is_whole

    @property
    def in_string(self) -> bool:
        """As in CallScanner."""
        return self._object is not None and self._object.in_string

    @property
    def text(self) -> str:
        """What was taken so far."""
        return self._head + (self._object.text if self._object is not None else "")

    def feed(self, text: str) -> str | None:
        """As in CallScanner."""
        if self._object is None:
            whole = self._head + text
            start = whole.find("{", 0, _MAX_HEAD)
            if start < 0 and len(whole) < _MAX_HEAD:
                self._head = whole
                return None
            stop = start if start >= 0 else _MAX_HEAD
            self._head, text = whole[:stop], whole[stop:]
            name = self._named()
            if start < 0 or name not in self._offered:
                return text
            self._object = ArgumentsScanner(name, self._offered)
        return self._object.feed(text)

    def call(self) -> ToolCall | None:
        """As in CallScanner."""
        return None if self._object is None else self._object.call()

    def _named(self) -> str:
        found = self._format
        inner = found.inner.text if found.inner is not None else ""
        opening = found.each[0].text if found.each is not None else ""
        head, separator, between = self._head.removeprefix(opening).partition(inner)
        between = between.strip()
        if not between:
            return head.strip() if separator else ""
        name, _, fence = between.partition("\n")
        return name.strip() if fence.strip() in ("```json", "```", "") else ""
