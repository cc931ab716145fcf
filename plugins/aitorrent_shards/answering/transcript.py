"""The transcript of an answer: its prompt, the tokens chosen so far, and their messages. No I/O.

Together with the seed it determines the answer: a committed token never changes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from aitorrent_shards.answering.logit_edits import LogitEdits
from aitorrent_shards.answering.sampler import Sampling
from aitorrent_shards.hops.sender import HopMessage
from aitorrent_shards.models.generation_config import LogitRules
from aitorrent_shards.models.grammar import Grammar, only_one, with_tokens
from aitorrent_shards.protocol.messages import Want
from aitorrent_shards.routing.planner import prefill_chunks
from aitorrentd.api.models.inference import DoneReason


@dataclass(slots=True)
class Transcript:
    """The prompt, the tokens so far, and the rules for choosing the next ones."""

    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop_ids: frozenset[int]
    vocab: int
    rules: LogitRules = field(default_factory=LogitRules)
    top_logprobs: int = 0
    "How many of the likeliest tokens to know at each place."
    grammar: Grammar | None = None
    is_free: bool = False
    "Whether the grammar does not count now, as in the reasoning before the answer."
    also: frozenset[int] = frozenset()
    "Tokens beside those of the grammar, which it does not see."
    edits: LogitEdits | None = field(init=False)
    "The edits to the next token's logits; None where the rules change nothing."
    committed: list[int] = field(default_factory=list)
    "New tokens, including the end token."

    def __post_init__(self) -> None:
        is_neutral = self.rules.is_neutral and self.grammar is None
        self.edits = None if is_neutral else LogitEdits(self.rules, self.prompt, self.stop_ids)

    @property
    def max_positions(self) -> int:
        """Positions that every stage must have room for."""
        return len(self.prompt) + self.max_tokens

    def prefill(self, *, chunk: int) -> list[HopMessage]:
        """The prompt as hop messages; only the last one requests candidates."""
        messages, pos = [], 0
        for n in prefill_chunks(len(self.prompt), chunk=chunk):
            last = pos + n == len(self.prompt)
            want = self._want() if last else None
            messages.append(ids_message(pos, self.prompt[pos : pos + n], want))
            pos += n
        return messages

    def step(self) -> HopMessage:
        """The newest token as a hop message."""
        pos = len(self.prompt) + len(self.committed) - 1
        return ids_message(pos, self.committed[-1:], self._want())

    def _want(self) -> Want:
        return self.sampling.want(
            self.vocab, edited=self.edits is not None, least=self.top_logprobs
        )

    def constrain(self) -> None:
        """Let the grammar, if any, say which tokens may come next."""
        if self.edits is not None:
            is_bound = self.grammar is not None and self.grammar.is_binding
            self.edits.mask = self._mask() if is_bound and not self.is_free else None
            self.edits.is_unfinished = is_bound and self.is_free

    def _mask(self) -> bytes | None:
        return None if self.grammar is None else with_tokens(self.grammar.mask(), self.also)

    def takes(self, token: int) -> bool:
        """Whether a chosen token may come next. If not, the grammar says from now on which may:
        choose again."""
        if self.grammar is None or self.edits is None or self.is_free or token in self.also:
            return True
        if self.edits.mask is not None or self.grammar.takes(token):
            return True
        self.edits.mask = self._mask()
        return False

    def forced(self) -> int | None:
        """The next token, if the grammar leaves only one."""
        mask = None if self.edits is None else self.edits.mask
        return None if mask is None else only_one(mask)

    def commit(self, token: int) -> DoneReason | None:
        """Record a chosen token; returns why the answer ends here, or None.

        Raises:
            InvalidParams: the grammar exceeds a limit here.
        """
        self.committed.append(token)
        if self.edits is not None:
            self.edits.commit(token)
        if token in self.stop_ids:
            return "stop"
        is_seen = not self.is_free and token not in self.also
        if self.grammar is not None and is_seen and self.grammar.commit(token):
            return "stop"
        return "length" if len(self.committed) >= self.max_tokens else None


def ids_message(pos: int, ids: Sequence[int], want: Want | None) -> HopMessage:
    """Token ids for the first stage: u32, little-endian."""
    header: dict[str, object] = {"p": pos, "n": len(ids)}
    if want is not None:
        header["w"] = (want.k, want.temperature)
    return HopMessage(pos, len(ids), header, struct.pack(f"<{len(ids)}I", *ids))
