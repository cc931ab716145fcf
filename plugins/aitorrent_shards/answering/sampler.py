"""Chooses the next token from the likeliest candidates. No I/O, no state.

A stage returns the best k logits and the log-sum-exp over its whole vocabulary, so probabilities
are those of the full softmax. The draw inverts the cumulative distribution at a number that depends
only on (seed, position): the same seed gives the same answer on any route. When the draw or the
top_p nucleus reaches beyond the k candidates, more are requested, so the distribution is exact.
Where a model's rules edit the logits, the effect on tokens beyond the candidates is bounded, and
more are requested when those bounds leave the choice open.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass
from typing import Final

from aitorrent_shards.answering.logit_edits import LogitEdits
from aitorrent_shards.models.grammar import allows
from aitorrent_shards.protocol.messages import Candidates, Want
from aitorrentd.api import ProtocolError

GREEDY_K: Final = 4
SAMPLE_K: Final = 64
_MAX_EXPONENT: Final = 700.0
_EXCESS: Final = 1e-3  # float32 rounding of a sum over a large vocabulary stays far below


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters: temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 keep all
    tokens."""

    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float = 0.0

    def want(self, vocab: int, *, edited: bool = False, least: int = 0) -> Want:
        """The candidates to request from the last stage for each token: at least `least`, and more
        where logits are `edited`."""
        if self.temperature == 0:
            return Want(min(max(SAMPLE_K if edited else GREEDY_K, least), vocab), 0.0)
        k = min(2 * self.top_k if edited else self.top_k, 1024)
        return Want(min(max(SAMPLE_K, k), vocab), self.temperature)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, determined by seed (63 bits) and position."""
    raw = seed.to_bytes(8, "big") + position.to_bytes(8, "big")
    digest = hashlib.blake2b(raw, digest_size=8, person=b"ait-sample").digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


def choose(
    candidates: Candidates, sampling: Sampling, *, vocab: int, edits: LogitEdits | None = None
) -> int | None:
    """The next token, or None when these candidates are not enough to choose it.

    Ties in logits are broken by the smallest id. top_k is applied before top_p and min_p, as in
    transformers; top_p keeps the smallest set whose mass reaches it.

    Raises:
        ProtocolError: the log-sum-exp contradicts the logits.
    """
    if edits is not None or sampling.min_p:
        return _choose_edited(candidates, sampling, vocab, edits)
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


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The tokens certain to be the likeliest after the edits, and the mass of the others.

    Masses are relative to the total mass before the edits.
    """

    ids: list[int]
    logits: list[float]
    rest_low: float
    rest_high: float
    complete: bool
    "Whether `ids` covers the whole vocabulary."


def _rank(
    candidates: Candidates, sampling: Sampling, vocab: int, edits: LogitEdits | None
) -> _Ranked:
    ids, logits = candidates.ids, candidates.logits
    mask = None if edits is None else edits.mask
    complete = len(ids) == vocab
    lowest = logits[-1]
    if mask is not None:
        fit = [n for n, token in enumerate(ids) if allows(mask, token)]
        ids, logits = tuple(ids[n] for n in fit), tuple(logits[n] for n in fit)
    edited = list(logits) if edits is None else edits.edit(ids, logits)
    if mask is not None and complete and all(x == -math.inf for x in edited):
        edited = list(logits)  # the model's rules forbid all that the grammar allows
    order = sorted(range(len(ids)), key=lambda i: (-edited[i], ids[i]))
    inside = set(ids)
    bound = lowest if edits is None else edits.bound(lowest, inside)
    is_sure = edits is None or complete
    sure = order if is_sure else [i for i in order if edited[i] > bound]
    sure = [i for i in sure if edited[i] > -math.inf] or (sure[:1] if mask is None else [])
    ranked_ids, ranked = [ids[i] for i in sure], [edited[i] for i in sure]
    if sampling.temperature == 0:
        return _Ranked(ranked_ids, ranked, 0.0, 0.0, complete)
    mass = sum(_weight(x, sampling, candidates) for x in candidates.logits)
    if mass > 1 + _EXCESS:
        raise ProtocolError("the candidates' probabilities add up to more than 1")
    known = sum(_weight(edited[i], sampling, candidates) for i in order[len(sure) :])
    outside = 0.0 if complete else max(0.0, 1.0 - mass)
    low = high = outside
    if edits is not None and mask is not None and not complete:
        low, others = 0.0, int.from_bytes(mask, "little").bit_count() - len(ids)
        high = min(outside, others * _weight(lowest, sampling, candidates))
        if edits.raises:
            high = others * _weight(bound, sampling, candidates)
    elif edits is not None and not complete:
        banned, penalised = edits.banned() - inside, set(edits.penalised()) - inside
        touched = len(banned | penalised)
        low = max(0.0, outside - touched * _weight(lowest, sampling, candidates))
        if edits.raises:
            high = outside + touched * _weight(bound, sampling, candidates)
    return _Ranked(ranked_ids, ranked, known + low, known + high, complete)


def _weight(logit: float, sampling: Sampling, candidates: Candidates) -> float:
    return math.exp(min(logit / sampling.temperature - candidates.lse, _MAX_EXPONENT))


def _choose_edited(
    candidates: Candidates, sampling: Sampling, vocab: int, edits: LogitEdits | None
) -> int | None:
    """Like `choose`, for edited logits or min_p."""
    ranked = _rank(candidates, sampling, vocab, edits)
    ids = ranked.ids
    if sampling.temperature == 0 or not ids:
        return ids[0] if ids else None
    cumulative = list(itertools.accumulate(_weight(x, sampling, candidates) for x in ranked.logits))
    limit = min(sampling.top_k or vocab, vocab)
    if sampling.top_k and len(ids) < limit and not ranked.complete:
        return None
    kept = min(limit, len(ids))
    "How many tokens are known to be drawable."
    whole = ranked.complete or kept == limit
    "Whether no other token can be drawn."
    low = high = cumulative[kept - 1]
    if kept < limit:
        low, high = low + ranked.rest_low, high + ranked.rest_high
    if sampling.top_p < 1:
        counts = {
            next((n for n, c in enumerate(cumulative[:kept], 1) if c >= sampling.top_p * m), None)
            for m in (low, high)
        }
        if len(counts) > 1 or (None in counts and not whole):
            return None
        if (count := counts.pop()) is not None:
            kept, whole = count, True
            low = high = cumulative[kept - 1]
    if sampling.min_p:
        floor = ranked.logits[0] + sampling.temperature * math.log(sampling.min_p)
        count = sum(x >= floor for x in ranked.logits[:kept])
        if count < kept or whole:
            kept, whole = count, True
            low = high = cumulative[kept - 1]
        else:
            return None
    draw = uniform(sampling.seed, candidates.length)
    drawn = {
        next((n for n, c in enumerate(cumulative[:kept]) if c > draw * m), None)
        for m in (low, high)
    }
    if len(drawn) > 1:
        return None
    if (place := drawn.pop()) is None:
        return ids[kept - 1] if whole else None
    return ids[place]
