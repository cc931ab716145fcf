"""Answers of /v1/completions; thinking is left out. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aitorrent_gateway.core.answers import KEEP_ALIVE
from aitorrent_gateway.core.encoding import encoded, quoted
from aitorrent_gateway.openai.shapes import Gathered, Identity, head
from aitorrent_gateway.openai.totals import node_part
from aitorrentd.api import Chunk
from aitorrentd.api.models.logprobs import TokenLogprob, logprob_map


class TextChoice:
    """A choice of /v1/completions."""

    prefix: Final = "cmpl-"
    kind: Final = "text_completion"
    chunk_kind: Final = "text_completion"

    def __init__(self, identity: Identity, index: int, *, with_usage: bool) -> None:
        self._index, self._with_logprobs = index, identity.with_logprobs
        self._null = b',"usage":null' if with_usage else b""
        self._head = head(self.chunk_kind, identity)
        self._text = self._head + b'[{"index":%d,"text":' % index
        self._end = b',"finish_reason":null}]' + self._null + b"}\n\n"
        self._tail = b',"logprobs":null' + self._end
        self._chars = 0
        self._gathered = Gathered()

    def first(self) -> bytes:
        """The event before any text: a comment, because there is nothing to say yet."""
        return KEEP_ALIVE if self._index == 0 else b""

    def piece(self, chunk: Chunk) -> bytes:
        """The event of a piece; none if it has no text."""
        tail = self._tail
        if self._with_logprobs and chunk.logprobs:
            tail = b',"logprobs":' + encoded(legacy_logprobs(chunk.logprobs, self._chars))
            tail += self._end
            self._chars += sum(len(value.token) for value in chunk.logprobs)
        if not chunk.text and tail is self._tail:
            return b""
        return self._text + quoted(chunk.text) + tail

    def last(self, chunk: Chunk) -> bytes:
        """The event with the reason of the end."""
        choice = {"index": self._index, "text": "", "logprobs": None}
        choice["finish_reason"] = chunk.reason
        part = b',"x_aitorrent":' + encoded(node_part(chunk))
        return self._head + encoded([choice]) + self._null + part + b"}\n\n"

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk for `whole`."""
        self._gathered.add(chunk)

    def whole(self, last: Chunk) -> dict[str, Any]:
        """The choice in an answer that is not streamed."""
        found = self._gathered
        return {
            "index": self._index,
            "text": "".join(found.text),
            "logprobs": legacy_logprobs(found.logprobs, 0) if self._with_logprobs else None,
            "finish_reason": last.reason,
        }


def legacy_logprobs(values: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """Parallel lists; the offsets are characters from the start of the answer, which has `offset`
    before these tokens."""
    offsets = []
    for value in values:
        offsets.append(offset)
        offset += len(value.token)
    tops = [{_name(top): _shown(top) for top in value.top} for value in values]
    return {
        "tokens": [_name(value) for value in values],
        "token_logprobs": [_shown(value) for value in values],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def _shown(value: TokenLogprob) -> float:
    found: float = logprob_map(value)["logprob"]
    return found


def _name(value: TokenLogprob) -> str:
    """The token, or its bytes where they are no text by themselves, as OpenAI writes them: else
    several would have one name."""
    if value.raw is None or "\N{REPLACEMENT CHARACTER}" not in value.token:
        return value.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in value.raw)
