"""What an answer is split into, and what splits it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aitorrent_shards.chats.formats import Tag
from aitorrentd.api.models.call_parts import CallPart
from aitorrentd.api.models.tools import ToolCall


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer: one of the four."""

    text: str = ""
    thinking: str = ""
    call: ToolCall | None = None
    part: CallPart | None = None
    "Of a call that comes whole later."


_NONE: Final = Piece()


class Reader(Protocol):
    """Splits one answer as it arrives."""

    @property
    def tags(self) -> Mapping[int, Tag]:
        """Tags by the ids of their tokens."""

    @property
    def openings(self) -> Sequence[int]:
        """The tokens that open reasoning."""

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""

    @property
    def is_thinking(self) -> bool:
        """Whether what comes next is reasoning, for which the grammar does not count."""

    @property
    def is_at_start(self) -> bool:
        """Whether reasoning may still begin."""

    @property
    def is_hidden(self) -> bool:
        """Whether what comes next is no text of the answer."""

    def push(self, text: str) -> list[Piece]:
        """The pieces that `text` completes."""

    def mark(self, tag: Tag) -> list[Piece]:
        """The pieces before a token that is a tag."""

    def finish(self) -> tuple[list[Piece], bool]:
        """The last pieces, and whether the answer ends inside a call."""


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces without empty ones."""
    return [piece for piece in pieces if piece != _NONE]
