"""Choosing the next token from the likeliest candidates. No I/O, no state.

A stage returns the best k logits and the log-sum-exp over its whole vocabulary, so probabilities
are those of the full softmax. The draw is the inverse of the cumulative distribution at a number
that depends only on (seed, position): the same seed gives the same answer on any route. When the
draw, or the nucleus of top_p, reaches beyond the k candidates, more are asked for, so the
distribution is exact.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Final

from aitorrent_shards.protocol.messages import Candidates, Want
from aitorrentd.api import ProtocolError

GREEDY_K: Final = 4
SAMPLE_K: Final = 64
_EXCESS: Final = 1e-3  # float32 rounding of a sum over a large vocabulary stays far below


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose: temperature 0 is greedy, top_k 0 keeps all, top_p 1 keeps all."""

    temperature: float
    top_k: int
    top_p: float
    seed: int

    def want(self, vocab: int) -> Want:
        """What to ask the last stage for with each token."""
        if self.temperature == 0:
            return Want(min(GREEDY_K, vocab), 0.0)
        return Want(min(max(SAMPLE_K, min(self.top_k, 1024)), vocab), self.temperature)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, fixed by seed (63 bits) and position."""
    raw = seed.to_bytes(8, "big") + position.to_bytes(8, "big")
    digest = hashlib.blake2b(raw, digest_size=8, person=b"ait-sample").digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def choose(candidates: Candidates, sampling: Sampling, *, vocab: int) -> int | None:
    """The next token, or None when these candidates do not decide it and more are needed.

    Of equal logits the smallest id comes first. top_k is applied before top_p, as transformers
    does; top_p keeps the smallest set whose mass reaches it.

    Raises:
        ProtocolError: the log-sum-exp contradicts the logits.
    """
    ids, logits, t = candidates.ids, candidates.logits, sampling.temperature
    if t == 0:
        return ids[0]
    complete = len(ids) == vocab
    limit = min(sampling.top_k, vocab) if sampling.top_k else vocab
    if sampling.top_k and len(ids) < limit and not complete:
        return None
    cumulative, total = [], 0.0
    for logit in logits[:limit]:
        total += math.exp(min(logit / t - candidates.lse, 1.0))
        if total > 1 + _EXCESS:
            raise ProtocolError("the candidates' probabilities add up to more than 1")
        cumulative.append(total)
    mass = total if len(cumulative) == limit else 1.0
    if sampling.top_p < 1:
        goal = sampling.top_p * mass
        kept = next((c for c in cumulative if c >= goal), None)
        if kept is None and len(cumulative) < limit:
            return None
        mass = kept if kept is not None else total
    goal = uniform(sampling.seed, candidates.length) * mass
    for token, c in zip(ids, cumulative, strict=False):
        if c > goal:
            return token
    return ids[len(cumulative) - 1] if len(cumulative) == limit else None
