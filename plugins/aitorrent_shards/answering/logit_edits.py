"""Logit edits based on earlier tokens: repetition penalty and forbidden tokens. No I/O.

Follows the logits processors of transformers, in float32, so that greedy answers are the same. A
stage returns only the likeliest candidates; `bound` limits how likely an edit can make any other
token, so the sampler knows whether those candidates are enough.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence

from aitorrent_shards.models.generation_config import LogitRules

_F32 = struct.Struct("<f")


def _f32(value: float) -> float:
    """The float32 nearest to `value`; correctly rounded for products and quotients of two
    float32."""
    try:
        rounded: float = _F32.unpack(_F32.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return rounded


class LogitEdits:
    """The edits for one answer; `commit` every chosen token."""

    def __init__(self, rules: LogitRules, prompt: Sequence[int], end_ids: frozenset[int]) -> None:
        self._rules, self._end_ids = rules, end_ids
        self._penalty = _f32(rules.repetition_penalty)
        self._ids: list[int] = []
        self._prompt_length = len(prompt)
        self._seen: set[int] = set()
        self._followers: dict[tuple[int, ...], set[int]] = {}
        "Maps an n-gram without its last token to the last tokens seen after it."
        for token in prompt:
            self._add(token)

    def commit(self, token: int) -> None:
        """Record a chosen token."""
        self._add(token)

    def _add(self, token: int) -> None:
        self._ids.append(token)
        if self._penalty != 1.0:
            self._seen.add(token)
        size = self._rules.no_repeat_ngram_size
        if size and len(self._ids) >= size:
            before = tuple(self._ids[len(self._ids) - size : -1])
            self._followers.setdefault(before, set()).add(token)

    def banned(self) -> frozenset[int]:
        """The tokens that must not come next."""
        rules, ids = self._rules, self._ids
        banned = set(rules.suppressed)
        if len(ids) == self._prompt_length:
            banned |= rules.begin_suppressed
        new = len(ids) - self._prompt_length
        if len(ids) < rules.min_length or new < rules.min_new_tokens:
            banned |= self._end_ids
        for word in rules.bad_words:
            before = word[:-1]
            if len(before) <= len(ids) and tuple(ids[len(ids) - len(before) :]) == before:
                banned.add(word[-1])
        size = rules.no_repeat_ngram_size
        if size and len(ids) >= size - 1:
            banned |= self._followers.get(tuple(ids[len(ids) - size + 1 :]), set())
        return frozenset(banned)

    def penalised(self) -> Collection[int]:
        """The tokens whose logits the repetition penalty changes."""
        return self._seen

    def edit(self, ids: Sequence[int], logits: Sequence[float]) -> list[float]:
        """The logits of candidates after all edits, in their order."""
        banned, seen = self.banned(), self._seen
        return [
            -math.inf if i in banned else self._penalise(x) if i in seen else x
            for i, x in zip(ids, logits, strict=True)
        ]

    def bound(self, logit: float) -> float:
        """The highest value that edits can give a logit of at most `logit`."""
        return max(logit, self._penalise(logit)) if self._seen else logit

    def _penalise(self, logit: float) -> float:
        return _f32(logit * self._penalty if logit < 0 else logit / self._penalty)

    @property
    def raises(self) -> bool:
        """Whether an edit can make a token likelier."""
        return self._penalty < 1.0
