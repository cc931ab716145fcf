"""Answers over one, two and three nodes equal those of transformers in one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.models import FAMILIES, make_model
from tests.support.nodes import NodeFactory
from tests.support.shards_nodes import answer, greedy, reference_ids, shards_network

SPLITS = {1: ["0-6"], 2: ["0-3", "3-6"], 3: ["0-2", "2-4", "4-6"]}


def text_of(n: int) -> str:
    """A prompt of `n` byte tokens: no merges apply between capitals."""
    return "".join(chr(ord("A") + (7 * i + i * i) % 26) for i in range(n))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stages", [3])
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
        assert [(s.start, s.end) for s in found["last"].stages] == [(0, 2), (2, 4), (4, 6)]
    together = await asyncio.gather(*(answer(nodes[0], p, **greedy(16)) for p in prompts.values()))
    assert [t["ids"] for t in together] == list(expected.values())
