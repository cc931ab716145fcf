"""Logit edits based on earlier tokens: penalties and forbidden tokens. No I/O.

Follows the logits processors of transformers, in float32, so that greedy answers are the same; the
presence and frequency penalties, which it lacks, are OpenAI's and come after the others. A bias
comes first, as in transformers; one of -100 forbids the token, as OpenAI documents. A stage
returns only the likeliest candidates; `bound` limits how likely an edit can make any other token,
so the sampler knows whether those candidates are enough.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Collection, Sequence

from aitorrent_shards.models.generation_config import LogitRules

FORBIDS = -100.0
"A bias that forbids a token."
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
        self._seen: Counter[int] = Counter()
        "Tokens that the repetition penalty covers, by how often they occur there."
        self._answer: Counter[int] = Counter()
        self._presence = _f32(rules.presence_penalty)
        self._frequency = _f32(rules.frequency_penalty)
        self._bias = {token: _f32(bias) for token, bias in rules.bias if bias > FORBIDS}
        self._forbidden = frozenset(token for token, bias in rules.bias if bias <= FORBIDS)
        self._most_bias = max(self._bias.values(), default=0.0)
        self._has_penalties = bool(rules.presence_penalty or rules.frequency_penalty)
        self.mask: bytes | None = None
        "The tokens that a grammar allows next; see `Grammar.mask`."
        self.is_unfinished = False
        "Whether a grammar demands more than there is, though it does not count now."
        self._followers: dict[tuple[int, ...], set[int]] = {}
        "Maps an n-gram without its last token to the last tokens seen after it."
        for token in prompt:
            self._add(token)

    def commit(self, token: int) -> None:
        """Record a chosen token."""
        self._add(token)
        if self._has_penalties:
            self._answer[token] += 1

    def _add(self, token: int) -> None:
        self._ids.append(token)
        if self._penalty != 1.0:
            self._cover(token)
        size = self._rules.no_repeat_ngram_size
        if size and len(self._ids) >= size:
            before = tuple(self._ids[len(self._ids) - size : -1])
            self._followers.setdefault(before, set()).add(token)

    def _cover(self, token: int) -> None:
        self._seen[token] += 1
        reach = self._rules.repeat_last_n
        if reach is not None and len(self._ids) > reach:
            old = self._ids[-reach - 1]
            left = self._seen.pop(old) - 1
            if left:
                self._seen[old] = left

    def banned(self) -> frozenset[int]:
        """The tokens that must not come next."""
        rules, ids = self._rules, self._ids
        banned = set(rules.suppressed) | self._forbidden
        if len(ids) == self._prompt_length:
            banned |= rules.begin_suppressed
        new = len(ids) - self._prompt_length
        if self.is_unfinished or len(ids) < rules.min_length or new < rules.min_new_tokens:
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
        """The tokens whose logits a penalty or a bias changes."""
        return self._seen.keys() | self._answer.keys() | self._bias.keys()

    def edit(self, ids: Sequence[int], logits: Sequence[float]) -> list[float]:
        """The logits of candidates after all edits, in their order."""
        banned = self.banned()
        return [
            -math.inf if i in banned else self._edited(i, x)
            for i, x in zip(ids, logits, strict=True)
        ]

    def _edited(self, token: int, logit: float) -> float:
        if token in self._bias:
            logit = _f32(logit + self._bias[token])
        if token in self._seen:
            logit = self._penalise(logit)
        count = self._answer.get(token, 0)
        return self._discourage(logit, count) if count else logit

    def _discourage(self, logit: float, count: int) -> float:
        """The logit of a token that the answer has `count` times."""
        return _f32(_f32(logit - _f32(self._frequency * count)) - self._presence)

    def bound(self, logit: float, known: Collection[int] = ()) -> float:
        """The highest value that edits can give a logit of at most `logit`, of a token that is not
        among the `known` ones."""
        if self._most_bias > 0:
            others = (bias for token, bias in self._bias.items() if token not in known)
            logit = _f32(logit + max(0.0, max(others, default=0.0)))
        highest = max(logit, self._penalise(logit)) if self._seen else logit
        if not self._answer:
            return highest
        # Negative penalties raise logits, most where a token occurs once or most often.
        most = max(self._answer.values())
        return max(highest, self._discourage(highest, 1), self._discourage(highest, most))

    def _penalise(self, logit: float) -> float:
        return _f32(logit * self._penalty if logit < 0 else logit / self._penalty)

    @property
    def raises(self) -> bool:
        """Whether an edit can make a token likelier."""
        return (
            self._most_bias > 0 or self._penalty < 1.0 or self._presence < 0 or self._frequency < 0
        )
