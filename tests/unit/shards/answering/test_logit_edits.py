"""Logits are edited as transformers edits them, and few candidates never decide otherwise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from aitorrent_shards.answering.logit_edits import LogitEdits
from aitorrent_shards.answering.sampler import Sampling, choose, uniform
from aitorrent_shards.models.generation_config import LogitRules, read_generation
from aitorrent_shards.protocol.messages import Candidates
from tests.support.effort import examples

VOCAB = 48
END = 47


def make_logits(seed: int, spread: float = 3.0) -> list[float]:
    draw = torch.Generator().manual_seed(seed)
    values: list[float] = (spread * torch.randn(VOCAB, generator=draw)).tolist()
    return values


def best(values: list[float], k: int, temperature: float, length: int) -> Candidates:
    order = sorted(range(VOCAB), key=lambda i: (-values[i], i))[:k]
    lse = math.log(math.fsum(math.exp(x / (temperature or 1.0)) for x in values))
    return Candidates(length, tuple(order), tuple(values[i] for i in order), lse)


def processed(rules: LogitRules, prompt: list[int], new: list[int], values: list[float]) -> Any:
    """What the processors of transformers make of the logits: [vocab]."""
    ids, scores = torch.tensor([[*prompt, *new]]), torch.tensor([values])
    chain: list[Any] = []
    added: Any = [[[token], bias] for token, bias in rules.bias if bias > -100]
    if added:
        scores = processors.SequenceBiasLogitsProcessor(added)(ids, scores)
    if forbidden := [token for token, bias in rules.bias if bias <= -100]:
        chain.append(processors.SuppressTokensLogitsProcessor(forbidden))
    if rules.repetition_penalty != 1:
        processor = processors.RepetitionPenaltyLogitsProcessor(rules.repetition_penalty)
        reach = rules.repeat_last_n
        covered = ids if reach is None else ids[:, max(0, ids.shape[1] - reach) :]
        scores = processor(covered, scores)
    # Not in transformers; as in vLLM's sampler, over the answer only.
    counts = torch.bincount(torch.tensor(new, dtype=torch.long), minlength=VOCAB)
    scores = scores - rules.frequency_penalty * counts
    scores = scores - rules.presence_penalty * (counts > 0)
    if rules.no_repeat_ngram_size:
        chain.append(processors.NoRepeatNGramLogitsProcessor(rules.no_repeat_ngram_size))
    if rules.bad_words:
        words = [list(w) for w in rules.bad_words]
        chain.append(processors.NoBadWordsLogitsProcessor(words, torch.tensor([END])))
    if rules.min_length:
        chain.append(processors.MinLengthLogitsProcessor(rules.min_length, torch.tensor([END])))
    if rules.min_new_tokens:
        chain.append(
            processors.MinNewTokensLengthLogitsProcessor(
                len(prompt), rules.min_new_tokens, torch.tensor([END])
            )
        )
    if rules.suppressed:
        chain.append(processors.SuppressTokensLogitsProcessor(sorted(rules.suppressed)))
    if rules.begin_suppressed:
        chain.append(
            processors.SuppressTokensAtBeginLogitsProcessor(
                sorted(rules.begin_suppressed), len(prompt)
            )
        )
    for processor in chain:
        scores = processor(ids, scores)
    return scores[0]


def edits_of(rules: LogitRules, prompt: list[int], new: list[int]) -> LogitEdits:
    edits = LogitEdits(rules, prompt, frozenset([END]))
    for token in new:
        edits.commit(token)
    return edits


TOKENS = st.integers(0, VOCAB - 1)
IDS = st.frozensets(st.integers(0, VOCAB - 2), max_size=6)
RULES = st.builds(
    LogitRules,
    repetition_penalty=st.sampled_from([1.0, 1.05, 1.5, 4.0, 0.7]),
    repeat_last_n=st.sampled_from([None, 0, 1, 3, 9]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.6, 2.0, -0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.1, 2.0, -0.3, -2.0]),
    bias=st.dictionaries(
        st.integers(0, VOCAB - 2), st.sampled_from([-100.0, -3.0, 0.5, 2.0, 100.0]), max_size=4
    ).map(lambda biases: tuple(biases.items())),
    no_repeat_ngram_size=st.integers(0, 4),
    suppressed=IDS,
    begin_suppressed=IDS,
    bad_words=st.lists(st.lists(TOKENS, min_size=1, max_size=3).map(tuple), max_size=3)
    .map(lambda words: [w for w in words if w != (END,)])
    .map(tuple),
    min_length=st.integers(0, 12),
    min_new_tokens=st.integers(0, 6),
)
PROMPTS = st.lists(st.integers(0, 9), min_size=4, max_size=12)
ANSWERS = st.lists(st.integers(0, 9), max_size=8)


@given(RULES, PROMPTS, ANSWERS, st.integers(0, 50))
@settings(max_examples=examples(200))
def test_edited_logits_are_those_of_transformers_bit_for_bit(
    rules: LogitRules, prompt: list[int], new: list[int], seed: int
) -> None:
    values = make_logits(seed)
    edited = edits_of(rules, prompt, new).edit(range(VOCAB), values)
    assert edited == processed(rules, prompt, new, values).tolist()


@given(RULES, PROMPTS, ANSWERS, st.integers(0, 50), st.sampled_from([1, 4, 16, 40]))
@settings(max_examples=examples(200))
def test_few_candidates_decide_as_all_do_or_not_at_all(
    rules: LogitRules, prompt: list[int], new: list[int], seed: int, k: int
) -> None:
    values, length = make_logits(seed), len(prompt) + len(new)
    edits = edits_of(rules, prompt, new)
    for sampling in (
        Sampling(0.0, 0, 1.0, seed),
        Sampling(0.8, 0, 1.0, seed),
        Sampling(1.3, 5, 1.0, seed),
        Sampling(1.0, 0, 0.7, seed),
        Sampling(1.0, 20, 0.9, seed, min_p=0.05),
        Sampling(0.6, 0, 1.0, seed, min_p=0.2),
    ):
        t = sampling.temperature
        whole = choose(best(values, VOCAB, t, length), sampling, vocab=VOCAB, edits=edits)
        few = choose(best(values, k, t, length), sampling, vocab=VOCAB, edits=edits)
        assert whole is not None
        assert few in (None, whole), sampling
        assert whole == by_the_book(rules, prompt, new, values, sampling), sampling


def by_the_book(
    rules: LogitRules, prompt: list[int], new: list[int], values: list[float], sampling: Sampling
) -> int:
    """Processors and warpers of transformers over the whole vocabulary, then our draw."""
    scores = processed(rules, prompt, new, values)
    if sampling.temperature == 0:
        return int(scores.argmax())
    scores = scores.double().unsqueeze(0) / sampling.temperature
    ids: Any = torch.tensor([[0]])
    if sampling.top_k:
        scores = processors.TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = processors.TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p:
        scores = processors.MinPLogitsWarper(sampling.min_p)(ids, scores)
    probabilities = scores.softmax(-1)[0].tolist()
    order = sorted(range(VOCAB), key=lambda i: (-probabilities[i], i))
    goal = uniform(sampling.seed, len(prompt) + len(new))
    sums = itertools.accumulate(probabilities[i] for i in order)
    return next((i for i, c in zip(order, sums, strict=True) if c > goal), order[-1])


def test_penalty_usually_needs_no_more_than_the_first_candidates() -> None:
    rules, prompt = LogitRules(repetition_penalty=1.1), list(range(10))
    decided = 0
    for seed in range(200):
        values = make_logits(seed)
        sampling = Sampling(0.7, 8, 0.9, seed)
        edits = edits_of(rules, prompt, [])
        decided += choose(best(values, 20, 0.7, 10), sampling, vocab=VOCAB, edits=edits) is not None
    assert decided > 190


@pytest.mark.parametrize("seed", range(20))
def test_min_p_without_rules_keeps_what_transformers_keeps(seed: int) -> None:
    values = make_logits(seed)
    sampling = Sampling(1.0, 0, 1.0, seed, min_p=0.1)
    token = choose(best(values, VOCAB, 1.0, 5), sampling, vocab=VOCAB)
    assert token == by_the_book(LogitRules(), [0] * 5, [], values, sampling)
    few = choose(best(values, 4, 1.0, 5), sampling, vocab=VOCAB)
    assert few in (None, token)


def test_defaults_of_the_settings_are_those_of_transformers() -> None:
    theirs = GenerationConfig._get_default_generation_params()
    ours = read_generation(theirs | {"do_sample": True}, "generation_config.json")
    assert (ours.temperature, ours.top_k, ours.top_p) == (1.0, theirs["top_k"], 1.0)
    assert ours.rules.is_neutral
