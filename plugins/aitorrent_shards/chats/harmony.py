"""Splits an answer in harmony, the format of gpt-oss, as it arrives. No I/O.

An answer is a list of messages, `<|start|>ROLE<|channel|>CHANNEL<|message|>TEXT<|end|>`; the prompt
begins the first. The channel `analysis` is reasoning, `commentary` and `final` are text, and a
message to `functions.NAME` is a call. Models put the recipient after the role or the channel, and
leave out tags: what fits nothing is text.

Source: OpenAI, "OpenAI harmony response format".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from aitorrent_shards.chats.begun import ArgumentsScanner
from aitorrent_shards.chats.formats import (
    CHANNEL,
    CONSTRAIN,
    END,
    HARMONY_ENDS,
    MESSAGE,
    START,
    Tag,
    ToolFormat,
)
from aitorrent_shards.chats.objects import call_of
from aitorrent_shards.chats.pieces import Piece, joined
from aitorrent_shards.models.detokenizer import overlap
from aitorrentd.api.models.tools import MAX_CALLS, Tool

_TAGS: Final = (CHANNEL, MESSAGE, START, CONSTRAIN, END, *HARMONY_ENDS)
_TAG: Final = re.compile("|".join(map(re.escape, _TAGS)))
_RECIPIENT: Final = re.compile(r"\bto=(\S+)")
_SILENT: Final = ("assistant", "analysis", "commentary", "final")
_MAX_HEADER: Final = 512
_SEPARATOR: Final = "\n"
"Between two messages of one kind."


class _State(Enum):
    BEGIN = "after the prompt, which begins a message"
    HEADER = "between the begin of a message and its text"
    THINKING = "in a message that is reasoning"
    TEXT = "in a message that is text"
    CALL = "in a message to a tool"
    BETWEEN = "after a message"


class HarmonyReader:
    """Reads one answer. Feed it text with `push`, and tokens that are tags with `mark`."""

    openings: Sequence[int] = ()
    is_thinking = False
    "The grammar of an answer counts from its first tag on."
    is_at_start = False

    def __init__(self, tools: ToolFormat, offered: Sequence[Tool] = ()) -> None:
        self.tags: dict[int, Tag] = {t.token: t for t in tools.tags if t.token is not None}
        self._names = frozenset(tool.name for tool in offered)
        self._state = _State.BEGIN
        self._held = ""
        "Text that may be part of a tag, or white space before the first message."
        self._raw = ""
        "What a message began with, in case that it is no call."
        self._name = ""
        self._scanner: ArgumentsScanner | None = None
        self._said: set[_State] = set()
        "Which kinds of messages had something in them."
        self._is_new = False
        self.calls = 0

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._state is _State.THINKING

    @property
    def is_hidden(self) -> bool:
        """Whether what comes next is no text of the answer."""
        return self._state is not _State.TEXT

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""
        pieces: list[Piece] = []
        whole, self._held = self._held + text, ""
        at = 0
        for found in _TAG.finditer(whole):
            self._text(whole[at : found.start()], pieces)
            self._tag(found[0], pieces)
            at = found.end()
        rest = whole[at:]
        keep = max(overlap(rest, tag) for tag in _TAGS)
        self._text(rest[: len(rest) - keep], pieces)
        self._held += rest[len(rest) - keep :]
        return joined(pieces)

    def mark(self, tag: Tag) -> list[Piece]:
        """The pieces before a token that is a tag."""
        pieces: list[Piece] = []
        held, self._held = self._held, ""
        self._text(held, pieces)
        self._tag(tag.text, pieces)
        return joined(pieces)

    def finish(self) -> tuple[list[Piece], bool]:
        """The last pieces, and whether the answer ends inside a call."""
        pieces: list[Piece] = []
        held, self._held = self._held, ""
        self._text(held, pieces)
        is_header = self._state in (_State.HEADER, _State.BEGIN)
        is_cut = self._scanner is not None or (is_header and self._recipient() in self._names)
        if not is_cut:
            self._drop_header(pieces)
        return joined(pieces), is_cut

    def _text(self, text: str, pieces: list[Piece]) -> None:
        if not text:
            return
        match self._state:
            case _State.BEGIN:
                self._raw += text
                words = self._raw.strip()
                if words and not "to=".startswith(words[:3]):  # no header at all
                    self._say(_State.TEXT, self._raw, pieces)
            case _State.HEADER:
                self._raw += text
                if len(self._raw) > _MAX_HEADER:
                    self._say(_State.TEXT, self._raw, pieces)
            case _State.BETWEEN:
                self._raw += text
                if text.strip():
                    self._say(_State.TEXT, self._raw, pieces)
            case _State.THINKING | _State.TEXT:
                self._say(self._state, text, pieces)
            case _State.CALL:
                self._in_call(text, pieces)

    def _say(self, state: _State, text: str, pieces: list[Piece]) -> None:
        """A part of a message that is text or reasoning."""
        if self._is_new and state in self._said:
            text = _SEPARATOR + text
        self._is_new, self._raw, self._state = False, "", state
        self._said.add(state)
        is_thinking = state is _State.THINKING
        pieces.append(Piece(thinking=text) if is_thinking else Piece(text=text))

    def _in_call(self, text: str, pieces: list[Piece]) -> None:
        scanner = self._scanner
        if scanner is None:  # after the arguments
            if text.strip():
                self._say(_State.TEXT, text, pieces)
            return
        after = scanner.feed(text)
        if scanner.begun is not None and self.calls < MAX_CALLS:
            pieces += scanner.begun.news()
        if after is None:
            return
        self._scanner = None
        call = scanner.call() if self.calls < MAX_CALLS else None
        if call is None:
            self._say(_State.TEXT, self._raw + scanner.text + after, pieces)
            return
        self.calls += 1
        pieces.append(Piece(call=call))
        self._raw = ""
        self._in_call(after, pieces)

    def _tag(self, tag: str, pieces: list[Piece]) -> None:
        scanner = self._scanner
        if self._state is _State.CALL and scanner is not None and scanner.in_string:
            self._in_call(tag, pieces)  # in an argument that quotes it
        elif tag in (CHANNEL, START):
            self._leave(pieces)
            if self._state is not _State.HEADER:
                self._raw = self._raw if self._state is _State.BEGIN else ""
                self._state, self._is_new = _State.HEADER, True
            self._raw += tag
        elif self._state in (_State.HEADER, _State.BEGIN) and tag == CONSTRAIN:
            self._raw += tag
        elif self._state in (_State.HEADER, _State.BEGIN) and tag == MESSAGE:
            self._raw += tag
            self._enter(pieces)
        elif tag in (END, *HARMONY_ENDS):
            self._leave(pieces)
            self._drop_header(pieces)
            self._raw, self._state, self._is_new = "", _State.BETWEEN, True
        else:
            self._text(tag, pieces)

    def _enter(self, pieces: list[Piece]) -> None:
        """The header of a message is complete."""
        channel = self._raw.rpartition(CHANNEL)[2]
        recipient = self._recipient()
        self._is_new = True
        if recipient in self._names:
            self._name, self._state = recipient, _State.CALL
            self._scanner = ArgumentsScanner(recipient, self._names)
        elif recipient:
            self._say(_State.TEXT, self._raw, pieces)  # to no tool of this request
        else:
            self._state = _State.THINKING if "analysis" in channel else _State.TEXT

    def _leave(self, pieces: list[Piece]) -> None:
        """A message ends, or its header begins anew."""
        scanner = self._scanner
        if self._state is _State.CALL and scanner is not None:
            call = scanner.call()
            if scanner.is_empty:
                call = call_of(self._name, None)  # without arguments
            if call is not None and self.calls < MAX_CALLS:
                self.calls += 1
                pieces.append(Piece(call=call))
            else:
                self._say(_State.TEXT, self._raw + scanner.text, pieces)
        self._scanner = None

    def _recipient(self) -> str:
        found = _RECIPIENT.search(re.sub(_TAG, " ", self._raw))
        return found[1].removeprefix("functions.") if found is not None else ""

    def _drop_header(self, pieces: list[Piece]) -> None:
        """A header without a message: nothing, if it has but tags and names of channels."""
        if self._state in (_State.HEADER, _State.BEGIN):
            words = re.sub(_TAG, " ", self._raw).split()
            if not all(word in _SILENT for word in words):
                self._say(_State.TEXT, self._raw, pieces)
