"""Scaled rotary embeddings: the same tokens as transformers, however prompts and sessions mix."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aitorrent_shards.models.context_length import context_length
from aitorrent_shards.models.folder import read_model
from aitorrent_shards.worker.families import read_anatomy
from tests.support.shards.shards_worker import (
    Chain,
    load_worker,
    random_prompt,
    reference_model,
    reference_tokens,
)

MakeModel = Callable[..., Path]

LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0],
    "original_max_position_embeddings": 100,
    "factor": 4.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LINEAR = {"rope_type": "linear", "factor": 2.0}
MODELS: dict[str, dict[str, Any]] = {
    "longrope": {"rope": LONG, "context": 400},
    "longrope qwen3": {"family": "qwen3", "rope": LONG, "context": 400},
    "longrope, unscaled": {"rope": LONG, "context": 100},
    "yarn": {"rope": YARN, "context": 100},
    "yarn, scaled": {"rope": YARN, "context": 400},
    "dynamic": {"rope": DYNAMIC, "context": 100},
    "dynamic mistral": {"family": "mistral", "rope": DYNAMIC, "context": 100},
    "old name of the type": {"rope": {"type": "dynamic", "factor": 4.0}, "context": 100},
    "linear": {"rope": LINEAR, "context": 200},
}
PROMPTS = (3, 95, 101, 180)
NEW = 10


def fresh_reference(path: Path, prompt: list[int]) -> list[int]:
    """By a model that saw no other prompt: those of transformers remember the longest."""
    reference_model.cache_clear()
    return reference_tokens(path, prompt, NEW)


@pytest.mark.slow
@pytest.mark.parametrize("fast_rows", [True, False], ids=["fast rows", "modules"])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_equal_generate_across_the_switch_of_factors(
    model: MakeModel, name: str, fast_rows: bool
) -> None:
    path = model(layers=2, **MODELS[name])
    cuts = [0, 2]
    threads = 1 if fast_rows else 2  # rows on one thread, modules on several
    workers = [load_worker(path, a, b, threads=threads) for a, b in pairwise(cuts)]
    assert all(worker._loaded().span.fast_rows is fast_rows for worker in workers)
    for n in PROMPTS:
        prompt = random_prompt(n)
        expected = fresh_reference(path, prompt)
        for chunk in (10_000, 64):
            session = Chain(workers, cuts, max_positions=n + NEW, prompt=n)
            assert session.generate(prompt, NEW, chunk=chunk) == expected, (n, chunk)
            session.close()


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_sessions_side_by_side_do_not_change_each_others_angles(
    model: MakeModel, name: str
) -> None:
    path = model(layers=2, **MODELS[name])
    worker = load_worker(path, 0, 2)
    prompts = {n: random_prompt(n) for n in (90, 180, 5, 120)}
    expected = {n: fresh_reference(path, prompt) for n, prompt in prompts.items()}
    sessions = {n: Chain([worker], [0, 2], max_positions=n + NEW, prompt=n) for n in prompts}
    found = {n: [sessions[n].feed(prompt).ids[0]] for n, prompt in prompts.items()}
    for _ in range(NEW - 1):  # one token of each in turn
        for n, tokens in found.items():
            tokens.append(sessions[n].feed(tokens[-1:]).ids[0])
    assert found == expected


@pytest.mark.parametrize(
    ("positions", "rope", "expected"),
    [
        (64, {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}, 256),
        (256, {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}, 256),
        (64, {"type": "yarn", "factor": 4.0}, 256),
        (40_960, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32_768},
         131_072),
        (131_072, {"type": "yarn", "factor": 4, "original_max_position_embeddings": 4096}, 131_072),
        (64, {"type": "yarn", "factor": None}, 64),
        (2048, {"type": "dynamic", "factor": 2.5}, 5120),
        (8192, {"type": "dynamic", "factor": 4, "original_max_position_embeddings": 2048}, 8192),
        (4096, {"type": "linear", "factor": 4.0}, 16_384),
        (16_384, {"type": "linear", "factor": 4, "original_max_position_embeddings": 4096}, 16_384),
        (131_072, {"type": "llama3", "factor": 32, "original_max_position_embeddings": 8192},
         131_072),
        (131_072, {"type": "longrope", "original_max_position_embeddings": 4096}, 131_072),
        (512, {"type": "longrope", "factor": 3.4, "original_max_position_embeddings": 150}, 512),
        (150, {"type": "longrope", "factor": 4, "original_max_position_embeddings": 150}, 600),
        (64, {"type": "yarn", "factor": 0.5}, 64),
        (64, {"type": "yarn", "factor": 1e30}, 64),
        (64, {"type": "yarn", "factor": True}, 64),
        (64, None, 64),
    ],
)  # fmt: skip
def test_context_is_scaled_once(positions: int, rope: dict[str, Any] | None, expected: int) -> None:
    assert context_length(positions, rope) == expected


@pytest.mark.parametrize("kind", ["yarn", "longrope", "dynamic", "linear"])
def test_original_context_beside_the_scaling_counts_too(kind: str) -> None:
    assert context_length(400, {"rope_type": kind, "factor": 4.0}, 100) == 400
    assert context_length(100, {"rope_type": kind, "factor": 4.0}, 100) == 400
    assert context_length(400, {"rope_type": kind, "factor": 4.0}, "100") == 1600


@pytest.mark.parametrize("name", MODELS)
def test_folder_and_worker_agree_on_the_context(model: MakeModel, name: str) -> None:
    path = model(layers=2, **MODELS[name])
    assert read_model(path).context == read_anatomy(path).max_positions == 400
