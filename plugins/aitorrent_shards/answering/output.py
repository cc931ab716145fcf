"""What a caller gets of an answer's tokens: text up to a stop text, reasoning, calls. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from aitorrent_shards.chats.pieces import Piece, Reader
from aitorrent_shards.models.detokenizer import Detokenizer, StopTexts


class Output:
    """The pieces of one answer. Stop texts count in its text only, not in reasoning and calls."""

    def __init__(
        self, detokenizer: Detokenizer, stops: Sequence[str], reader: Reader | None
    ) -> None:
        """`reader` splits the text of a model that can do more than write text."""
        self._detokenizer, self._reader = detokenizer, reader
        self._stops = StopTexts(stops)
        self.calls = 0
        self.is_cut = False
        "Whether the answer ended inside a call."
        self._reasoning_tokens = 0
        self._has_reasoning = False

    @property
    def stopped(self) -> bool:
        """Whether a stop text ended the answer."""
        return self._stops.stopped

    @property
    def stop_text(self) -> str:
        """The stop text that ended the answer; empty if none did."""
        return self._stops.found

    @property
    def is_thinking(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._reader is not None and self._reader.is_thinking

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens the reasoning took, with its closing tag; 0 while none of it was told."""
        return self._reasoning_tokens if self._has_reasoning else 0

    @property
    def is_hidden(self) -> bool:
        """Whether the next token belongs to no text."""
        return self._reader is not None and self._reader.is_hidden

    @property
    def opening(self) -> frozenset[int]:
        """The token with which reasoning may begin here, if any."""
        reader = self._reader
        if reader is None or not reader.is_at_start:
            return frozenset()
        return frozenset(reader.openings)

    def push(self, token: int) -> list[Piece]:
        """The pieces that a token completes."""
        reader = self._reader
        if reader is None:
            return self._until_stop([Piece(text=self._detokenizer.push(token))])
        was_reasoning = reader.is_reasoning
        if (tag := reader.tags.get(token)) is not None:
            pieces = reader.push(self._detokenizer.skip(token))
            pieces += reader.mark(tag)
        else:
            pieces = reader.push(self._detokenizer.push(token))
        self._reasoning_tokens += was_reasoning or reader.is_reasoning
        return self._until_stop(pieces)

    def finish(self) -> list[Piece]:
        """The pieces that were held back."""
        text, reader = self._detokenizer.flush(), self._reader
        pieces = [Piece(text=text)]
        if reader is not None:
            pieces = reader.push(text)
            last, self.is_cut = reader.finish()
            pieces += last
        return self._until_stop([*pieces, Piece()], is_last=True)

    def _until_stop(self, pieces: Sequence[Piece], *, is_last: bool = False) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if self.stopped:
                break
            if piece.call is not None or piece.part is not None or piece.thinking:
                found.append(Piece(text=self._stops.flush()))
                found.append(piece)
                self.calls += piece.call is not None
                self._has_reasoning |= bool(piece.thinking)
            else:
                found.append(Piece(text=self._stops.push(piece.text)))
        if is_last:
            found.append(Piece(text=self._stops.flush()))
        return [piece for piece in found if piece != Piece()]
