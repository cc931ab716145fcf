"""Sampled answers of real nodes with real workers: the right distribution, and seeds kept apart."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare

from aitorrentd.node import Node
from tests.support.nodes import NodeFactory
from tests.support.shards.models import make_model
from tests.support.shards.shards_nodes import answer, shards_network
from tests.support.shards.shards_worker import reference_model

PROMPT = "SEVERALNODESHOLDAMODEL"
AT_ONCE = 8
DRAWS = 600


async def first_tokens(node: Node, count: int, temperature: float) -> Counter[int]:
    """The first token of an answer, for each of `count` seeds."""
    seeds = iter(range(count))
    found: Counter[int] = Counter()

    async def draw() -> None:
        for seed in seeds:
            wishes = {"temperature": temperature, "top_k": 0, "top_p": 1.0, "seed": seed}
            found.update((await answer(node, PROMPT, max_tokens=1, **wishes))["ids"])

    await asyncio.gather(*(draw() for _ in range(AT_ONCE)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.6, 2.0])
async def test_draws_follow_the_softmax_of_all_logits_of_transformers(
    node_factory: NodeFactory, tmp_path: Path, temperature: float
) -> None:
    path = make_model(tmp_path / "m")
    # One node: several would be asked for more streams a second than a peer may open.
    (asking,) = await shards_network(node_factory, path, ["0-6"])
    found = await first_tokens(asking, DRAWS, temperature)
    ids = torch.tensor([[ord(c) - 33 for c in PROMPT]])
    with torch.inference_mode():
        logits = reference_model(path)(ids).logits[0, -1].double()
    due = (torch.softmax(logits / temperature, 0) * DRAWS).tolist()
    # Beyond the 64 candidates that come with each step there must be something to draw, too.
    likeliest = sorted(range(len(due)), key=lambda i: -due[i])
    if temperature > 1:
        assert sum(found[i] for i in likeliest[64:]) > DRAWS / 24
    often = [i for i in likeliest if due[i] >= 5]
    seen = [found[i] for i in often] + [DRAWS - sum(found[i] for i in often)]
    wanted = [due[i] for i in often] + [DRAWS - sum(due[i] for i in often)]
    assert chisquare(seen, wanted).pvalue > 1e-4


async def test_answers_at_one_time_with_different_seeds_are_as_alone(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    nodes = await shards_network(node_factory, path, ["0-2", "2-4", "4-6"])
    wishes = [{"temperature": 1.3, "top_k": 0, "seed": n, "max_tokens": 20} for n in range(6)]
    alone = [(await answer(nodes[0], PROMPT, **w))["ids"] for w in wishes]
    together = await asyncio.gather(
        *(answer(nodes[n % 3], PROMPT, **w) for n, w in enumerate(wishes))
    )
    assert [t["ids"] for t in together] == alone
    assert len({tuple(ids) for ids in alone}) == len(wishes)
