"""Streaming detokenizer: whole characters only, and nothing after a stop text. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

_BROKEN: Final = "\ufffd"
_MAX_HELD: Final = 8
"A character has at most 4 bytes, so at most 4 byte tokens; more held tokens are invalid text."


class Decoder(Protocol):
    """The part of a tokenizer used here."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = ...) -> str:
        """The text of token ids."""


class Detokenizer:
    """Decodes a growing list of tokens piece by piece.

    The pieces add up to the text of all tokens after `before`. A token is decoded together with the
    ones before it, because its text depends on them (leading spaces, bytes of one character); a
    piece that ends inside a character is held back until the rest arrives.
    """

    def __init__(self, decoder: Decoder, before: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._ids = list(before[-_MAX_HELD:])
        self._read = len(self._ids)
        "Tokens whose text was returned."

    def push(self, token: int) -> str:
        """The new text, which may be empty."""
        self._ids.append(token)
        known, text = self._texts()
        held = len(self._ids) - self._read
        if text.endswith(_BROKEN) and held < _MAX_HELD:
            return ""
        new = _beyond(known, text)
        if not new and held < _MAX_HELD:
            return ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return new

    def skip(self, token: int) -> str:
        """The text held back before `token`, whose own text the caller has."""
        text = self.flush()
        self._ids, self._read = [token], 1
        return text

    def flush(self) -> str:
        """The text still held back, without an incomplete character at the end."""
        known, text = self._texts()
        self._ids, self._read = [], 0
        return _beyond(known, text).rstrip(_BROKEN)

    def _texts(self) -> tuple[str, str]:
        decode = self._decoder.decode
        return (
            decode(self._ids[: self._read], skip_special_tokens=True),
            decode(self._ids, skip_special_tokens=True),
        )


def _beyond(known: str, text: str) -> str:
    """What `text` has after `known`.

    New tokens may complete a character that was broken at the end of `known`, one replacement
    character for each byte; the whole character is new then.
    """
    if text.startswith(known):
        return text[len(known) :]
    whole = known.rstrip(_BROKEN)
    return text[len(whole) :] if text.startswith(whole) else text[len(known) :]


class StopTexts:
    """Passes text through up to the first stop text, which may arrive in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.found = ""
        "The stop text that ended the text; empty if none did."

    @property
    def stopped(self) -> bool:
        """Whether a stop text arrived."""
        return bool(self.found)

    def push(self, text: str) -> str:
        """The text that is known to precede any stop text."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        held = self._held + text
        # The one that is complete first: so it does not matter in which pieces the text comes.
        found = [(i + len(s), i, s) for s in self._stops if (i := held.find(s)) >= 0]
        if found:
            _, at, self.found = min(found)
            self._held = ""
            return held[:at]
        keep = max(overlap(held, s) for s in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """The text held back for a stop text that did not arrive."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `stop`, but not all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
