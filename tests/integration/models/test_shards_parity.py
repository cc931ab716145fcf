"""Answers over one, two and three nodes equal those of transformers in one process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aitorrentd.api import Busy, InvalidParams
from aitorrentd.node import Node
from tests.support.nodes import NodeFactory, wait_for
from tests.support.scraping import has_no_session
from tests.support.shards.models import FAMILIES, make_model
from tests.support.shards.shards_nodes import answer, greedy, reference_ids, shards_network
from tests.support.shards.shards_worker import reference_model

SPLITS = {1: ["0-6"], 2: ["0-3", "3-6"], 3: ["0-2", "2-4", "4-6"]}


def text_of(n: int) -> str:
    """A prompt of `n` byte tokens: no merges apply between capitals."""
    return "".join(chr(ord("A") + (7 * i + i * i) % 26) for i in range(n))


@pytest.mark.parametrize(
    ("family", "stages"), [*((f, 3) for f in FAMILIES), ("llama", 1), ("llama", 2)]
)
async def test_greedy_tokens_equal_generate(
    node_factory: NodeFactory, tmp_path: Path, family: str, stages: int
) -> None:
    path = make_model(tmp_path / "m", family=family)
    nodes = await shards_network(node_factory, path, SPLITS[stages])
    prompts = {n: text_of(n) for n in (1, 2, 7, 64, 300)}
    expected = {
        n: reference_ids(path, [ord(c) - 33 for c in prompt], 16) for n, prompt in prompts.items()
    }
    for n, prompt in prompts.items():
        found = await answer(nodes[0], prompt, **greedy(16))
        assert found["last"].prompt_tokens == n
        assert found["ids"] == expected[n], f"prompt of {n}"
        assert [f"{s.start}-{s.end}" for s in found["last"].stages] == SPLITS[stages]
    await check_logprobs(nodes[0], path)
    await check_json(nodes[0])
    together = await asyncio.gather(*(answer(nodes[0], p, **greedy(16)) for p in prompts.values()))
    assert [t["ids"] for t in together] == list(expected.values())


async def check_logprobs(node: Node, path: Path) -> None:
    """The log-probabilities of a sampled answer are those of transformers."""
    prompt = text_of(20)
    wishes: Any = {"temperature": 0.7, "seed": 3, "max_tokens": 12}
    wishes |= {"logprobs": True, "top_logprobs": 4}
    chunks = [chunk async for chunk in node.generate(prompt, model="m", **wishes)]
    scores = [score for chunk in chunks for score in chunk.logprobs]
    new = [i for chunk in chunks for i in chunk.token_ids]
    ids = torch.tensor([[*(ord(c) - 33 for c in prompt), *new]])
    with torch.inference_mode():
        logits = reference_model(path)(ids).logits[0, len(prompt) - 1 : -1]
    right = torch.log_softmax(logits.double(), -1)
    for score, row in zip(scores, right, strict=False):
        assert score.logprob == pytest.approx(row[score.token_id].item(), abs=1e-4)
        assert [t.logprob for t in score.top] == pytest.approx(
            row.topk(4).values.tolist(), abs=1e-4
        )
    assert len(scores) >= len(new) - 1


async def check_json(node: Node) -> None:
    """A model with random weights answers in JSON."""
    properties: Any = {"n": {"type": "integer", "maximum": 9}, "s": {"enum": ["a", "bc"]}}
    schema: Any = {"type": "object", "properties": properties, "required": ["n", "s"]}
    schema["additionalProperties"] = False
    found = await answer(node, text_of(9), temperature=1.0, seed=1, max_tokens=200, format=schema)
    assert found["last"].reason == "stop"
    assert set(json.loads(found["text"])) == {"n", "s"}


async def test_sampled_tokens_with_a_seed_are_the_same_over_any_number_of_nodes(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    wishes = {"temperature": 1.5, "top_p": 0.95, "seed": 77, "max_tokens": 24}
    answers = []
    for layers in SPLITS.values():
        nodes = await shards_network(node_factory, path, layers)
        answers.append((await answer(nodes[0], text_of(40), **wishes))["ids"])
        for node in nodes:
            await node.stop()
    assert answers[0] == answers[1] == answers[2]


async def test_vanished_clients_and_long_prompts_leave_nothing_behind(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    path = make_model(tmp_path / "m")
    nodes = await shards_network(node_factory, path, SPLITS[2])
    with pytest.raises(InvalidParams, match="has 500 tokens, which with max_tokens 64 exceeds"):
        await answer(nodes[0], text_of(500), **greedy(64))
    for _ in range(3):
        chunks: Any = nodes[0].generate(text_of(30), model="m", **greedy(200))
        await anext(chunks)
        await chunks.aclose()
    await wait_for(lambda: all(map(has_no_session, nodes)))
    expected = reference_ids(path, [ord(c) - 33 for c in text_of(30)], 8)
    assert (await answer(nodes[0], text_of(30), **greedy(8)))["ids"] == expected


async def test_full_cache_is_a_clear_busy(node_factory: NodeFactory, tmp_path: Path) -> None:
    path = make_model(tmp_path / "m", context=65_536)
    (node,) = await shards_network(node_factory, path, SPLITS[1])
    chunks: Any = node.generate(text_of(30), model="m", **greedy(40_000))
    await anext(chunks)
    with pytest.raises(Busy):
        await answer(node, text_of(30), **greedy(40_000))
    await chunks.aclose()
