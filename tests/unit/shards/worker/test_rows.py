"""Single rows are computed in numpy only for layers that are known to compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aitorrent_shards.models import supported
from aitorrent_shards.worker.families import build_skeleton, read_anatomy
from aitorrent_shards.worker.rows import RowLayer, can_run_rows
from tests.support.shards.models import FAMILIES
from tests.support.shards.shards_worker import Chain, load_worker, random_prompt, reference_tokens

MakeModel = Callable[..., Path]

STRANGERS = ("smollm3", "olmo", "olmo2", "gemma", "granite", "cohere", "phi3", "glm", "starcoder2")


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_of_the_supported_families_are_known(model: MakeModel, family: str) -> None:
    anatomy = read_anatomy(model(family=family))
    layers = build_skeleton(anatomy, torch.float32).layers
    assert all(can_run_rows(layer, anatomy) for layer in layers)


@pytest.mark.parametrize("family", STRANGERS)
def test_layers_of_other_families_are_left_to_their_modules(model: MakeModel, family: str) -> None:
    anatomy = read_anatomy(model())
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "vocab_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **sizes, **heads)
    with torch.device("meta"):
        stranger: Any = AutoModelForCausalLM.from_config(config)
    assert not any(can_run_rows(layer, anatomy) for layer in stranger.model.layers)


@pytest.mark.parametrize("part", ["self_attn", "mlp", "input_layernorm"])
def test_known_layer_with_a_part_of_another_class_is_left_to_its_modules(
    model: MakeModel, part: str
) -> None:
    anatomy = read_anatomy(model())
    layer: Any = copy.deepcopy(build_skeleton(anatomy, torch.float32).layers[0])
    own = getattr(layer, part)
    own.__class__ = type("Other", (type(own),), {})
    assert not can_run_rows(layer, anatomy)


@pytest.mark.parametrize("odd", [0, 1])
def test_layer_that_computes_otherwise_than_its_class_says_is_noticed_at_load(
    model: MakeModel, monkeypatch: pytest.MonkeyPatch, odd: int
) -> None:
    path = model(layers=2, family="qwen2", sliding_window=20)
    assert load_worker(path, 0, 2)._loaded().span.fast_rows
    original = RowLayer.__call__
    made: list[RowLayer] = []
    build = RowLayer.__init__

    def remember(self: RowLayer, *arguments: Any) -> None:
        build(self, *arguments)
        made.append(self)

    def compute(self: RowLayer, x: Any, cos: Any, sin: Any, cache: Any, i: int) -> None:
        if self is made[odd]:
            cos, sin = cos * 0 + 1, sin * 0
        original(self, x, cos, sin, cache, i)

    monkeypatch.setattr(RowLayer, "__init__", remember)
    monkeypatch.setattr(RowLayer, "__call__", compute)
    worker = load_worker(path, 0, 2)
    assert not worker._loaded().span.fast_rows
    prompt = random_prompt(30)
    tokens = Chain([worker], [0, 2]).generate(prompt, 8)
    assert tokens == reference_tokens(path, prompt, 8)


def test_smollm3_would_be_computed_right_by_its_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a supported family; were it listed, its layers must not be taken for Llama's."""
    listed = {**supported.FAMILIES, "smollm3": "SmolLM3ForCausalLM"}
    monkeypatch.setattr(supported, "FAMILIES", listed)
    config = AutoConfig.for_model(
        "smollm3",
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        no_rope_layer_interval=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    whole: Any = AutoModelForCausalLM.from_config(config)
    for parameter in whole.parameters():
        parameter.data *= 8
    whole.save_pretrained(tmp_path)
    prompt = random_prompt(20)
    for cuts in ([0, 4], [0, 1, 4]):
        workers = [load_worker(tmp_path, a, b) for a, b in pairwise(cuts)]
        assert not any(w._loaded().span.fast_rows for w in workers)
        assert Chain(workers, cuts).generate(prompt, 12) == reference_tokens(tmp_path, prompt, 12)
