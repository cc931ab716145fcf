"""Chained layer ranges give the tokens that transformers' generate() gives in one process."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.shards.models import FAMILIES
from tests.support.shards.shards_worker import (
    Chain,
    Choice,
    ask,
    load_worker,
    random_prompt,
    reference_model,
    reference_tokens,
    token_tail,
)

pytestmark = pytest.mark.slow

MakeModel = Callable[..., Path]

PROMPTS = (1, 2, 7, 64, 300)
NEW = 24
SPLITS = ([0, 6], [0, 1, 6], [0, 4, 6], [0, 2, 4, 6], [0, 1, 5, 6])

VARIANTS: dict[str, dict[str, Any]] = {family: {"family": family} for family in FAMILIES}
VARIANTS |= {f"{family} tied": {"family": family, "tied": True} for family in FAMILIES}
VARIANTS |= {
    "llama sharded": {"shards": 4},
    "llama all heads": {"kv_heads": 4},
    "llama scaled rope": {
        "rope": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    "mistral window": {"family": "mistral", "sliding_window": 20},
    "qwen2 window": {"family": "qwen2", "sliding_window": 20},
    "qwen3 window": {"family": "qwen3", "sliding_window": 20},
}


def _chain(path: Path, cuts: list[int], **changes: Any) -> Chain:
    workers = [load_worker(path, start, end, **changes) for start, end in pairwise(cuts)]
    return Chain(workers, cuts)


def _all_logits(choice: Choice) -> torch.Tensor:
    logits = torch.empty(len(choice.ids))
    logits[torch.tensor(choice.ids)] = torch.tensor(choice.logits)
    return logits


# One whole model of each kind of attention is enough while somebody types; `make test` has all.
EVERY_VARIANT = [
    name if name in ("llama", "qwen3 window") else pytest.param(name, marks=pytest.mark.slow)
    for name in VARIANTS
]


@pytest.mark.parametrize("name", EVERY_VARIANT)
def test_greedy_tokens_of_every_split_equal_generate(model: MakeModel, name: str) -> None:
    path = model(**VARIANTS[name])
    expected = {n: reference_tokens(path, random_prompt(n), NEW) for n in PROMPTS}
    for cuts in SPLITS:
        first = _chain(path, cuts)
        for n in PROMPTS:
            chain = Chain(first.workers, cuts)
            assert chain.generate(random_prompt(n), NEW) == expected[n], (cuts, n)
            chain.close()
    assert len({token for tokens in expected.values() for token in tokens}) > 20


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2], ids=["fast rows", "modules"])
@pytest.mark.parametrize("name", ["llama", "qwen2 window", "qwen3", "mistral window"])
def test_prompt_in_chunks_gives_the_same_tokens(model: MakeModel, name: str, threads: int) -> None:
    path = model(**VARIANTS[name])
    prompt = random_prompt(300)
    expected = reference_tokens(path, prompt, NEW)
    for chunk in (128, 33):
        chain = _chain(path, [0, 2, 6], threads=threads)
        assert chain.generate(prompt, NEW, chunk=chunk) == expected, chunk


def test_long_inputs_that_go_through_in_pieces_give_the_same_tokens(model: MakeModel) -> None:
    path = model(**VARIANTS["qwen3 window"])
    prompt = random_prompt(300)
    expected = reference_tokens(path, prompt, NEW)
    chain = _chain(path, [0, 4, 6])
    for worker in chain.workers:
        worker._loaded().span.rows_at_once = 37
    assert chain.generate(prompt, NEW) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="hardware: no GPU")
def test_stages_on_a_gpu_give_the_same_tokens(model: MakeModel) -> None:
    path = model(**VARIANTS["qwen3 window"])
    prompt = random_prompt(64)
    expected = reference_tokens(path, prompt, NEW)
    assert _chain(path, [0, 4, 6], device="cuda").generate(prompt, NEW, chunk=20) == expected


def test_interleaved_sessions_do_not_disturb_each_other(model: MakeModel) -> None:
    path = model(family="qwen3", sliding_window=20)
    cuts = [0, 3, 6]
    first = _chain(path, cuts)
    prompts = [random_prompt(n, seed=n) for n in (3, 40, 150, 9)]
    chains = [Chain(first.workers, cuts) for _ in prompts]
    tokens = [[chain.feed(prompt).ids[0]] for chain, prompt in zip(chains, prompts, strict=True)]
    for _ in range(NEW - 1):
        for chain, mine in zip(chains, tokens, strict=True):
            mine.append(chain.feed(mine[-1:]).ids[0])
    assert tokens == [reference_tokens(path, prompt, NEW) for prompt in prompts]


def test_sessions_may_use_part_of_the_loaded_layers(model: MakeModel) -> None:
    path = model(family="mistral", sliding_window=20)
    workers = [load_worker(path, 0, 6), load_worker(path, 1, 5), load_worker(path, 0, 6)]
    chain = Chain(workers, [0, 2, 4, 6])
    prompt = random_prompt(64)
    assert chain.generate(prompt, NEW) == reference_tokens(path, prompt, NEW)


@pytest.mark.parametrize("fast", [True, False], ids=["fast rows", "modules"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3 tied", "mistral window"])
def test_logits_equal_those_of_transformers(model: MakeModel, name: str, fast: bool) -> None:
    path = model(**VARIANTS[name])
    prompt = random_prompt(15)
    reference = reference_model(path)
    chain = _chain(path, [0, 2, 3, 6], threads=1 if fast else 2)
    assert all(worker._loaded().span.fast_rows is fast for worker in chain.workers)
    with torch.inference_mode():
        past = None
        for ids in (prompt, *([token] for token in random_prompt(12))):
            made = reference(torch.tensor([ids]), past_key_values=past, logits_to_keep=1)
            past = made.past_key_values
            mine = _all_logits(chain.feed(ids, k=0))
            if not fast and chain.length < 20:  # beyond the window transformers passes a mask
                assert torch.equal(mine, made.logits[0, -1])
            torch.testing.assert_close(mine, made.logits[0, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stages_equal_one_half_precision_stage(model: MakeModel, dtype: str) -> None:
    path = model(family="llama")
    prompt = random_prompt(50)
    one = _chain(path, [0, 6], dtype=dtype).generate(prompt, NEW)
    three = _chain(path, [0, 2, 4, 6], dtype=dtype).generate(prompt, NEW)
    assert one == three


def test_middle_stage_answers_hidden_states_of_its_dtype(model: MakeModel) -> None:
    path = model(family="llama")
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        worker = load_worker(path, 0, 2, dtype=dtype)
        ask(worker, "open", session=b"s", start=0, end=2, max_positions=10)
        header, tail = ask(
            worker, "step", token_tail([1, 2, 3]), session=b"s", pos=0, n=3, want=None
        )
        assert len(tail) == 3 * 64 * size
        assert header.pop("took_us") > 0
        assert header == {"pos": 0, "n": 3}
