"""Models with one oddity each, over real nodes: the tokens are those of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.nodes import NodeFactory
from tests.support.shards.shards_nodes import answer, greedy, shards_network

CASES = Path(__file__).parents[2] / "cases" / "inference" / "models"


def case(tmp_path: Path, name: str) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / name
    shutil.copytree(CASES / "common", folder)
    shutil.copytree(CASES / name, folder, dirs_exist_ok=True)
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return folder, expected


def text_of(ids: list[int]) -> str:
    """The raw prompt of byte tokens below 94."""
    return "".join(chr(i + 33) for i in ids)


@pytest.mark.parametrize("name", ["longrope-switch", "yarn-context"])
async def test_long_prompt_in_pieces_over_two_nodes(
    node_factory: NodeFactory, tmp_path: Path, name: str
) -> None:
    folder, expected = case(tmp_path, name)
    nodes = await shards_network(node_factory, folder, ["0-1", "1-2"], prefill_chunk=64)
    for each in expected["greedy"]:
        new = each["new_ids"]
        found = await answer(nodes[0], text_of(each["prompt_ids"]), raw=True, **greedy(len(new)))
        assert found["ids"] == new


async def test_halves_with_and_without_a_foreign_file_work_together(
    node_factory: NodeFactory, tmp_path: Path
) -> None:
    folder, expected = case(tmp_path, "two-formats")
    nodes = await shards_network(node_factory, folder, ["0-1"])
    (tmp_path / "other").mkdir()
    other, _ = case(tmp_path / "other", "two-formats")
    (other / "consolidated.safetensors").unlink()
    nodes += await shards_network(node_factory, other, ["1-2"])
    await nodes[0].connect(nodes[1].addresses()[0])
    (each, *_) = expected["greedy"]
    found = await answer(nodes[1], text_of(each["prompt_ids"]), raw=True, **greedy(10))
    assert found["ids"] == each["new_ids"]


@pytest.mark.parametrize("layers", [["0-2"], ["0-1", "1-2"]])
async def test_repetition_penalty_of_the_model_is_applied(
    node_factory: NodeFactory, tmp_path: Path, layers: list[str]
) -> None:
    folder, expected = case(tmp_path, "repetition-penalty")
    nodes = await shards_network(node_factory, folder, layers)
    prompt, new = text_of(expected["prompt_ids"]), expected["new_ids"]
    found = await answer(nodes[0], prompt, raw=True, max_tokens=len(new))
    assert found["ids"] == new
