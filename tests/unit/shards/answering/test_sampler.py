"""The sampler draws from exactly the softmax of all logits."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitorrent_shards.answering.sampler import Sampling, choose, uniform
from aitorrent_shards.protocol.messages import Candidates
from aitorrentd.api import ProtocolError

VOCAB = 40


def float32(values: list[float]) -> list[float]:
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


def logits(seed: int = 0, spread: float = 2.0) -> list[float]:
    draw = random.Random(seed)
    return float32([draw.gauss(0, spread) for _ in range(VOCAB)])


def best(values: list[float], k: int, temperature: float, length: int = 1) -> Candidates:
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    lse = math.log(sum(math.exp(x / (temperature or 1.0)) for x in values))
    return Candidates(length, tuple(order), tuple(values[i] for i in order), lse)


def draw(values: list[float], sampling: Sampling, length: int, k: int = 8) -> int:
    """As the coordinator does it: few candidates first, all of them if those do not decide."""
    t = sampling.temperature
    token = choose(best(values, k, t, length), sampling, vocab=VOCAB)
    if token is None:
        token = choose(best(values, VOCAB, t, length), sampling, vocab=VOCAB)
    assert token is not None
    return token


def softmax(values: list[float], temperature: float) -> list[float]:
    weights = [math.exp(x / temperature) for x in values]
    return [w / sum(weights) for w in weights]


def expected(values: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Probabilities by the book: temperature, then top_k, then top_p, then renormalised."""
    p = softmax(values, temperature)
    order = sorted(range(VOCAB), key=lambda i: (-values[i], i))
    order = order[: top_k or VOCAB]
    mass = sum(p[i] for i in order)
    kept, total = [], 0.0
    for i in order:
        kept.append(i)
        total += p[i] / mass
        if total >= top_p:
            break
    mass = sum(p[i] for i in kept)
    return [p[i] / mass if i in kept else 0.0 for i in range(VOCAB)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (3.0, 0, 1.0), (1.0, 5, 1.0), (1.5, 20, 1.0), (1.0, 0, 0.8),
     (2.0, 0, 0.95), (1.0, 12, 0.7)],
)  # fmt: skip
def test_draws_follow_the_softmax(temperature: float, top_k: int, top_p: float) -> None:
    values, n = logits(), 20_000
    sampling = Sampling(temperature, top_k, top_p, seed=11)
    counts = [0] * VOCAB
    for length in range(n):
        counts[draw(values, sampling, length)] += 1
    p = expected(values, temperature, top_k, top_p)
    assert all(c == 0 for c, q in zip(counts, p, strict=True) if q == 0)
    likely = [i for i in range(VOCAB) if p[i] * n >= 5]
    rest_seen = n - sum(counts[i] for i in likely)
    rest_due = n - sum(p[i] * n for i in likely)
    seen, due = [counts[i] for i in likely], [p[i] * n for i in likely]
    if rest_due > 1e-6 * n:
        seen, due = [*seen, rest_seen], [*due, rest_due]
    scale = sum(seen) / sum(due)
    from scipy.stats import chisquare  # it takes two seconds

    assert chisquare(seen, [d * scale for d in due]).pvalue > 1e-4


@given(st.integers(0, 10**6), st.integers(0, 2**63 - 1), st.sampled_from([0.3, 1.0, 4.0]),
       st.sampled_from([0, 3, 17]), st.sampled_from([1.0, 0.9, 0.3]))  # fmt: skip
def test_how_many_candidates_came_first_does_not_matter(
    length: int, seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    values = logits(seed % 7)
    sampling = Sampling(temperature, top_k, top_p, seed)
    tokens = {draw(values, sampling, length, k) for k in (1, 4, 8, 20, VOCAB)}
    assert len(tokens) == 1


def test_undecided_draw_asks_for_more() -> None:
    flat = [0.0] * VOCAB
    answers = [
        choose(best(flat, 4, 1.0, n), Sampling(1.0, 0, 1.0, 1), vocab=VOCAB) for n in range(99)
    ]
    assert answers.count(None) > 60
    assert all(a in (None, 0, 1, 2, 3) for a in answers)


def test_greedy_takes_the_smallest_of_equal_ids() -> None:
    values = [1.0, 3.0, 3.0, 2.0] + [0.0] * (VOCAB - 4)
    assert choose(best(values, 4, 0.0), Sampling(0.0, 0, 1.0, 5), vocab=VOCAB) == 1


def test_same_seed_and_position_give_the_same_number() -> None:
    assert uniform(3, 9) == uniform(3, 9)
    assert len({uniform(3, n) for n in range(1000)} | {uniform(n, 3) for n in range(1000)}) == 1999
    assert all(0 <= uniform(n, 0) < 1 for n in range(1000))


def test_log_sum_that_contradicts_the_logits_is_refused() -> None:
    forged = Candidates(1, (1, 2), (5.0, 4.0), 3.0)
    with pytest.raises(ProtocolError, match="add up to more than 1"):
        choose(forged, Sampling(1.0, 0, 1.0, 1), vocab=VOCAB)
