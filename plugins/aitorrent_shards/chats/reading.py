"""Splits a model's answer into reasoning, text and calls of tools, as it arrives. No I/O.

What looks like a call and is none, such as one of an unknown tool, is text: a caller never loses
what the model wrote. A call is passed on as it is written, once its name is certain; damaged JSON
after that stays a call. One that the token limit cut off never comes whole, which is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from aitorrent_shards.chats.begun import ArgumentsScanner, ObjectCallScanner
from aitorrent_shards.chats.formats import Style, Tag, ThinkTags, ToolFormat
from aitorrent_shards.chats.heads import could_be_call
from aitorrent_shards.chats.pieces import Piece, joined
from aitorrent_shards.chats.scanning import CallScanner, Offered, call_scanner
from aitorrent_shards.models.detokenizer import overlap
from aitorrentd.api.models.tools import MAX_CALLS, Tool, ToolCall

_SKIPPED: Final = {
    Style.HERMES: "",
    Style.LLAMA: ";",
    Style.MISTRAL_LIST: "[,]",
    Style.MISTRAL_ARGS: "",
    Style.PARAMETERS: "",
    Style.DEEPSEEK: "`",
}
"What stands around the objects of calls, besides white space."
_WHOLE: Final = ("", "]", ";")
"What may stand after the last call."
_MAX_NAME: Final = 256


class _State(Enum):
    START = "nothing but white space yet"
    THINKING = "in the reasoning"
    TEXT = "in the text"
    CALL = "where a call may begin"
    OBJECT = "in the JSON object of a call, or in a call that is none"


class AnswerReader:
    """Reads one answer. Feed it text with `push`, and tokens that are tags with `mark`."""

    def __init__(
        self,
        *,
        thinking: ThinkTags | None = None,
        is_thinking: bool = False,
        tools: ToolFormat | None = None,
        offered: Sequence[Tool] = (),
    ) -> None:
        """`is_thinking`: whether the prompt opened the reasoning. `tools`: how offered ones are
        called."""
        self._thinking, self._format = thinking, tools
        self._offered: Offered = {tool.name: tool.parameters or {} for tool in offered}
        self._state = _State.THINKING if is_thinking and thinking is not None else _State.START
        self._held = ""
        "Text that may turn out to be part of a tag, or white space at an edge."
        self._raw = ""
        "What was written since a call may have begun, in case that it is none."
        self._scanner: CallScanner | None = None
        self._name = ""
        self._follows_thinking = False
        self.calls = 0
        self.tags: dict[int, Tag] = {
            tag.token: tag
            for tag in (
                *((thinking.open, thinking.close) if thinking is not None else ()),
                *(tools.tags if tools is not None else ()),
            )
            if tag.token is not None
        }
        "Tags by the ids of their tokens."

    @property
    def openings(self) -> list[int]:
        """The tokens that open reasoning."""
        token = self._thinking.open.token if self._thinking is not None else None
        return [] if token is None else [token]

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._state is _State.THINKING

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is reasoning, for which the grammar does not count."""
        return self.is_reasoning

    @property
    def is_at_start(self) -> bool:
        """Whether reasoning may still begin."""
        return self._state is _State.START

    @property
    def is_hidden(self) -> bool:
        """Whether what comes next is no text of the answer."""
        return self._state not in (_State.START, _State.TEXT)

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""
        pieces: list[Piece] = []
        while text:
            match self._state:
                case _State.START:
                    text = self._at_start(text)
                case _State.THINKING:
                    text = self._in_thinking(text, pieces)
                case _State.TEXT:
                    text = self._in_text(text, pieces)
                case _State.CALL:
                    text = self._before_object(text, pieces)
                case _State.OBJECT:
                    text = self._in_object(text, pieces)
        return joined(pieces)

    def mark(self, tag: Tag) -> list[Piece]:
        """The pieces before a token that is a tag."""
        pieces: list[Piece] = []
        tools, thinking, state = self._format, self._thinking, self._state
        may_think = state is _State.START and thinking is not None and not self._held.strip()
        if state is _State.THINKING and thinking is not None and tag == thinking.close:
            self._end_thinking(pieces)
        elif state is _State.THINKING:
            pieces.append(Piece(thinking=self._take() + tag.text))
        elif may_think and thinking is not None and tag == thinking.open:
            self._held, self._state = "", _State.THINKING
        elif may_think and thinking is not None and tag == thinking.close:
            self._end_thinking(pieces)  # the prompt opened and closed it; some models repeat that
        elif tools is not None and tools.begin is not None and tag in tools.tags:
            pieces += self.push(tag.text)
        elif self._scanner is not None and self._scanner.in_string:
            pieces += self.push(tag.text)  # in an argument that quotes it
        elif tools is not None and tag == tools.open:
            self._open_call(pieces)
        elif tools is not None and tag == tools.ident and state is _State.CALL:
            pieces += self.push(tag.text)
        elif tools is not None and tag == tools.inner and state is _State.CALL:
            self._raw += tag.text
            self._enter_arguments()
        elif state is _State.CALL and tools is not None and tag == tools.close:
            self._close_call(pieces)
        elif self._is_begun:
            self._give_up(pieces)
            pieces += self.mark(tag)
        elif state in (_State.CALL, _State.OBJECT):
            self._give_up(pieces)
            pieces.append(Piece(text=tag.text))
        else:
            pieces.append(Piece(text=self._take() + tag.text))
            self._state = _State.TEXT
        return joined(pieces)

    def finish(self) -> tuple[list[Piece], bool]:
        """The last pieces, and whether the answer ends inside a call."""
        pieces: list[Piece] = []
        if self._is_begun and self._scanner is not None and self._scanner.is_whole:
            self._give_up(pieces)  # only what ends the call is missing
        is_cut = self._state is _State.OBJECT or (
            self._state is _State.CALL and (self._raw + self._name).strip() not in _WHOLE
        )
        is_blank, state = not self._held.strip(), self._state
        if state is _State.THINKING:
            pieces.append(Piece(thinking=self._take()))
        elif is_blank and (self.calls or state is _State.START):
            pass  # white space at an edge is no part of the answer
        elif state in (_State.START, _State.TEXT):
            pieces.append(Piece(text=self._take()))
        return joined(pieces), is_cut

    def _take(self) -> str:
        held, self._held = self._held, ""
        return held

    def _at_start(self, text: str) -> str:
        """Decide what the answer begins with."""
        whole = self._take() + text
        words = whole.lstrip()
        opening = self._thinking.open if self._thinking is not None else None
        if opening is not None and opening.token is None:
            if words.startswith(opening.text):
                self._state = _State.THINKING
                return words[len(opening.text) :]
            if opening.text.startswith(words):
                self._held = whole
                return ""
        if not words:
            self._held = whole
            return ""
        if self._format is not None and self._format.style is Style.LLAMA:
            likely = could_be_call(words, self._offered)
            if likely is None:
                self._held = whole
                return ""
            if likely:
                self._raw, self._name = "", ""
                self._state = _State.CALL
                return words
        self._state = _State.TEXT
        return words if self._follows_thinking else whole

    def _in_thinking(self, text: str, pieces: list[Piece]) -> str:
        whole = self._take() + text
        closing = self._thinking.close if self._thinking is not None else None
        if closing is None or closing.token is not None:
            pieces.append(Piece(thinking=whole))
            return ""
        before, found, after = whole.partition(closing.text)
        if found:
            self._held = before
            self._end_thinking(pieces)
            return after
        keep = overlap(whole, closing.text)
        self._held = whole[len(whole) - keep :]
        pieces.append(Piece(thinking=whole[: len(whole) - keep]))
        return ""

    def _end_thinking(self, pieces: list[Piece]) -> None:
        pieces.append(Piece(thinking=self._take()))
        # White space after the reasoning is no part of the answer; no second reasoning follows.
        self._state, self._thinking, self._follows_thinking = _State.START, None, True

    def _in_text(self, text: str, pieces: list[Piece]) -> str:
        whole = self._take() + text
        tools = self._format
        if tools is not None and tools.is_spelled(tools.open):
            found = [(at, each) for each in tools.openings if (at := whole.find(each)) >= 0]
            if found:
                at, opening = min(found)
                self._held = whole[:at]
                self._open_call(pieces)
                if opening == tools.open.text:
                    return whole[at + len(opening) :]
                self._raw = self._raw.removesuffix(tools.open.text)
                return whole[at:]
            keep = max(overlap(whole, each) for each in tools.openings)
            whole, self._held = whole[: len(whole) - keep], whole[len(whole) - keep :]
        if self._format is not None:
            # White space before a call is no part of the answer.
            words = whole.rstrip()
            whole, self._held = words, whole[len(words) :] + self._held
        pieces.append(Piece(text=whole))
        return ""

    def _open_call(self, pieces: list[Piece]) -> None:
        if self._state in (_State.CALL, _State.OBJECT):
            self._give_up(pieces)
        held = self._take()
        before = held.rstrip()
        pieces.append(Piece(text=before))
        opening = self._format.open.text if self._format is not None else ""
        self._raw, self._name = held[len(before) :] + opening, ""
        self._state = _State.CALL

    def _before_object(self, text: str, pieces: list[Piece]) -> str:
        tools = self._format
        if tools is None:
            self._state = _State.TEXT
            return text
        if tools.style is Style.MISTRAL_ARGS:
            return self._in_name(text, tools, pieces)
        if self._held:
            text = self._take() + text
        rest = text.lstrip(" \t\r\n" + _SKIPPED[tools.style])
        skipped = text[: len(text) - len(rest)]
        if self._raw.strip() or "`" not in skipped:  # the end of a fence belongs to the call before
            self._raw += skipped
        if not rest:
            return ""
        tags = [
            (tag, tools.is_spelled(tag)) for tag in (tools.close, tools.open) if tag is not None
        ]
        tags += [(tag, True) for tag in (tools.each or ())[1:]]
        for tag, is_spelled in tags:
            # The outer tag again means nothing; after something else it begins anew.
            is_due = is_spelled and (tag != tools.open or not self._raw.strip())
            if is_due and rest.startswith(tag.text):
                if tag == tools.close:
                    self._close_call(pieces)
                elif tag == tools.open:
                    self._raw = tag.text
                elif self._raw.strip():  # the end of a call that is none
                    self._raw += tag.text
                return rest[len(tag.text) :]
            if is_due and tag.text.startswith(rest):
                self._held = rest
                return ""
        begin = tools.begin
        if begin is None and rest[0] == "{":
            self._scanner, self._state = ObjectCallScanner(self._offered), _State.OBJECT
            return rest
        if begin is not None and rest.startswith(begin):
            self._scanner, self._state = call_scanner(tools, self._offered), _State.OBJECT
            return rest
        if begin is not None and begin.startswith(rest):
            self._held = rest
            return ""
        self._give_up(pieces)
        return rest

    def _in_name(self, text: str, tools: ToolFormat, pieces: list[Piece]) -> str:
        inner = tools.inner
        before, whole = len(self._name), self._name + text
        at = whole.find(inner.text) if inner is not None and inner.token is None else -1
        end = next((n for n, c in enumerate(whole[: at if at >= 0 else None]) if c == "{"), -1)
        if end < 0 and at < 0 and len(whole) <= _MAX_NAME:
            self._raw, self._name = self._raw + text, whole
            return ""
        if end < 0 and 0 <= at <= _MAX_NAME and inner is not None:
            stop = at + len(inner.text)
            self._name, self._raw = whole[:at].strip(), self._raw + whole[before:stop]
            self._enter_arguments()
            return whole[stop:]
        stop = min(end if end >= 0 else _MAX_NAME, _MAX_NAME)
        self._raw += whole[before:stop]
        self._give_up(pieces)
        return whole[max(stop, before) :]

    def _in_object(self, text: str, pieces: list[Piece]) -> str:
        scanner = self._scanner
        if scanner is None:
            self._state = _State.TEXT
            return text
        after = scanner.feed(text)
        if self._is_begun and scanner.begun is not None:
            pieces += scanner.begun.news()
        if after is not None:
            self._end_object(scanner.call(), pieces)
        return after or ""

    def _enter_arguments(self) -> None:
        """The object comes next, after a name (Mistral)."""
        name = self._name.partition("[CALL_ID]")[0].strip()
        self._scanner, self._state = ArgumentsScanner(name, self._offered), _State.OBJECT

    def _end_object(self, call: ToolCall | None, pieces: list[Piece]) -> None:
        if call is None or self.calls >= MAX_CALLS:
            self._give_up(pieces)
            return
        self.calls += 1
        pieces.append(Piece(call=call))
        self._raw, self._name, self._scanner = "", "", None
        tools = self._format
        self._state = _State.TEXT if tools is not None and tools.ends_outside else _State.CALL

    @property
    def _is_begun(self) -> bool:
        """Whether there are parts of a call, so that it cannot be text any more."""
        begun = self._scanner.begun if self._scanner is not None else None
        return begun is not None and self.calls < MAX_CALLS

    def _close_call(self, pieces: list[Piece]) -> None:
        closing = self._format.close if self._format is not None else None
        if self._raw.strip():  # the tags hold no call
            self._raw += closing.text if closing is not None else ""
            self._give_up(pieces)
        self._raw, self._state = "", _State.TEXT

    def _give_up(self, pieces: list[Piece]) -> None:
        """What was written is no call after all, or one that is not valid."""
        if self._is_begun and self._scanner is not None:
            self._end_object(self._scanner.call(), pieces)
            return
        raw = self._raw + (self._scanner.text if self._scanner is not None else "")
        pieces.append(Piece(text="" if raw.strip() in _WHOLE else raw))
        self._raw, self._name, self._scanner = "", "", None
        self._state = _State.TEXT
