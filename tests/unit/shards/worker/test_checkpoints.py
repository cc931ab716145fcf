"""Checkpoints that others saved are read as transformers reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aitorrent_shards.models.folder import hash_model, read_model
from aitorrent_shards.worker.process import ShardWorker
from aitorrentd.api import InvalidParams, NotFound
from aitorrentd.wire import Frame
from tests.support.shards.models import make_model
from tests.support.shards.shards_worker import (
    Chain,
    load_request,
    load_worker,
    random_prompt,
    reference_tokens,
)

pytestmark = pytest.mark.slow

CASES = Path(__file__).parents[3] / "cases" / "inference" / "models"
NEW = 10


def case(tmp_path: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """A folder with the case's model, and what is expected of it."""
    folder = tmp_path / name
    shutil.copytree(CASES / "common", folder)
    shutil.copytree(CASES / name, folder, dirs_exist_ok=True)
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return folder, expected


def chain(path: Path, cuts: list[int], **options: Any) -> Chain:
    workers = [load_worker(path, start, end) for start, end in pairwise(cuts)]
    return Chain(workers, cuts, **options)


CHUNKS = pytest.mark.parametrize("chunk", [10_000, 128, 50])
CUTS = pytest.mark.parametrize("cuts", [[0, 2], [0, 1, 2]], ids=["whole", "split"])


@CHUNKS
@CUTS
@pytest.mark.parametrize(
    "name", ["tied-head-only", "stale-index", "two-formats", "longrope-switch", "yarn-context"]
)
def test_tokens_are_the_right_ones_however_model_and_prompt_are_cut(
    tmp_path: Path, name: str, cuts: list[int], chunk: int
) -> None:
    folder, expected = case(tmp_path, name)
    for each in expected["greedy"]:
        prompt, new = each["prompt_ids"], each["new_ids"]
        room = len(prompt) + len(new)
        session = chain(folder, cuts, max_positions=room, prompt=len(prompt))
        assert session.generate(prompt, len(new), chunk=chunk) == new


def test_files_of_another_format_count_neither_for_digest_nor_size(tmp_path: Path) -> None:
    folder, _ = case(tmp_path, "two-formats")
    both = read_model(folder)
    digest = hash_model(both, tmp_path / "a.json", lambda n: None)
    (folder / "consolidated.safetensors").unlink()
    alone = read_model(folder)
    assert hash_model(alone, tmp_path / "b.json", lambda n: None) == digest
    assert both.size_bytes == alone.size_bytes == (folder / "model.safetensors").stat().st_size


def test_stale_index_counts_neither_for_digest_nor_size(tmp_path: Path) -> None:
    folder, _ = case(tmp_path, "stale-index")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"left over")
    with_index = read_model(folder)
    assert [f.name for f in with_index.weights] == ["model.safetensors"]


def test_weights_in_several_files_are_those_of_the_index(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", shards=3)
    named = [f.name for f in read_model(folder).weights]
    (folder / "adapter_model.safetensors").write_bytes(b"of somebody else")
    assert [f.name for f in read_model(folder).weights] == named
    assert named == sorted(f.name for f in folder.glob("model-*.safetensors"))
    (folder / named[1]).unlink()
    with pytest.raises(NotFound, match=f"{named[1]} is missing .*; its index names it"):
        read_model(folder)
    for name in (named[0], named[2]):
        (folder / name).unlink()
    assert read_model(folder).weights == ()  # as on a node that only asks others


def test_unstated_number_format_is_that_of_the_files(tmp_path: Path) -> None:
    folder, expected = case(tmp_path, "dtype-unstated")
    worker = ShardWorker()
    answer, _ = worker(Frame(load_request(folder, 0, 2, dtype="auto")))
    assert answer["dtype"] == expected["dtype"]
    parameters = load_file(folder / "model.safetensors").values()
    assert answer["weight_bytes"] == sum(2 * t.numel() for t in parameters)


def _rename(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    kept = {k: v for k, v in config.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("first", ["lm_head.weight", "model.norm.weight", "model.layers.0.mlp"])
@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16, torch.float32])
def test_mixed_formats_give_the_one_that_transformers_takes(
    tmp_path: Path, first: str, base: torch.dtype
) -> None:
    folder = make_model(tmp_path / "m", layers=2, dtype=base)
    other = torch.float32 if base != torch.float32 else torch.bfloat16

    def mix(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.startswith(first):
                tensors[name] = tensors[name].to(other)

    _rename(folder, mix)
    _edit(folder, torch_dtype=None)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype
    answer, _ = ShardWorker()(Frame(load_request(folder, 0, 2, dtype="auto")))
    assert answer["dtype"] == str(theirs).removeprefix("torch.")


def _only_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")


def _both(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def _no_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def _old_buffers(tensors: dict[str, torch.Tensor]) -> None:
    for i in range(4):
        tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)


def _no_head(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["lm_head.weight"]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("change", [_only_head, _both, _no_prefix, _old_buffers])
def test_tied_weights_are_found_under_every_name_that_savers_use(
    tmp_path: Path, family: str, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    folder = make_model(tmp_path / "m", family=family, layers=4, tied=True)
    plain = reference_tokens(folder, random_prompt(20), NEW)
    _rename(folder, change)
    copy = tmp_path / "copy"  # transformers' own result, of a folder that was not read before
    shutil.copytree(folder, copy)
    assert reference_tokens(copy, random_prompt(20), NEW) == plain
    for cuts in ([0, 4], [0, 1, 4], [0, 2, 3, 4]):
        assert chain(folder, cuts).generate(random_prompt(20), NEW) == plain


def test_untied_head_that_is_missing_is_an_error(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    _rename(folder, _no_head)
    with pytest.raises(InvalidParams, match=r"has no tensor 'lm_head\.weight'"):
        load_worker(folder, 1, 2)


def _compiled(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"_orig_mod.{name}"] = tensors.pop(name)


def _compiled_by_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [n for n in tensors if ".layers." in n]:
        model, layers, i, rest = name.split(".", 3)
        tensors[f"{model}.{layers}.{i}._orig_mod.{rest}"] = tensors.pop(name)


def _in_parallel(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        inner = name.replace("mlp.", "_checkpoint_wrapped_module.mlp.")
        tensors[f"module._fsdp_wrapped_module.{inner}"] = tensors.pop(name)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("change", [_compiled, _compiled_by_layer, _in_parallel])
def test_weights_saved_inside_wrappers_of_torch_are_found(
    tmp_path: Path, shards: int, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    plain = reference_tokens(folder, random_prompt(20), NEW)
    _rename(folder, change)
    if shards > 1:
        _split(folder, shards)
    assert chain(folder, [0, 1, 2]).generate(random_prompt(20), NEW) == plain


def _split(folder: Path, shards: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for k in range(shards):
        part = {name: tensors[name] for name in names[k::shards]}
        save_file(part, folder / f"part-{k}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, f"part-{k}.safetensors")
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_tensor_that_lies_in_two_files_is_taken_from_the_one_in_the_index(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    plain = reference_tokens(folder, random_prompt(20), NEW)
    _split(folder, 2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for k in (0, 1):  # each file also holds damaged copies of what the other one holds
        file = folder / f"part-{k}.safetensors"
        own = load_file(file)
        others = load_file(folder / f"part-{1 - k}.safetensors")
        copies = {n: t * 9 for n, t in others.items() if index[n] != file.name}
        save_file(own | copies, file, metadata={"format": "pt"})
    assert chain(folder, [0, 1, 2]).generate(random_prompt(20), NEW) == plain


def _as_text_tower(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"model.language_model.{name.removeprefix('model.')}"] = tensors.pop(name)


def test_text_tower_of_a_multimodal_model_is_refused_with_the_name_that_was_found(
    tmp_path: Path,
) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    _rename(folder, _as_text_tower)
    with pytest.raises(InvalidParams, match=r"but 'model\.language_model\.layers\.0\..*another"):
        load_worker(folder, 0, 1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.1.mlp.down_proj.bias", [64]),
        ("model.layers.1.self_attn.q_proj.bias", [64]),
        ("layers.1.self_attn.q_norm.weight", [16]),
        ("model.layers.1.self_attn.q_proj.weight_scale", [64, 1]),
        ("model.layers.1.self_attn.q_proj.lora_A.weight", [4, 64]),
        ("_orig_mod.model.layers.1.self_attn.sinks", [4]),
        ("lm_head.bias", [320]),
    ],
)
def test_weights_that_would_be_left_out_are_refused_by_name(
    tmp_path: Path, name: str, shape: list[int]
) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    _rename(folder, lambda tensors: tensors.update({name: torch.ones(shape)}))
    unwrapped = name.removeprefix("_orig_mod.").removeprefix("model.")
    with pytest.raises(InvalidParams, match=f"has no tensor (model.)?{unwrapped}, which the che"):
        load_worker(folder, 1, 2)
    load_worker(folder, 0, 1)


@pytest.mark.parametrize("name", ["rotary_emb.cos_cached", "k_scale", "v_scale"])
def test_tensors_that_nothing_needs_are_left_out(tmp_path: Path, name: str) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    full = f"model.layers.0.self_attn.{name}"
    _rename(folder, lambda tensors: tensors.update({full: torch.ones(8)}))
    load_worker(folder, 0, 2)


def test_packed_weights_are_called_quantised_whatever_their_shape(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m", layers=2)
    packed = torch.zeros(64, 8, dtype=torch.uint8)
    name = "model.layers.0.self_attn.o_proj.weight"
    _rename(folder, lambda tensors: tensors.update({name: packed}))
    with pytest.raises(
        InvalidParams, match=r"o_proj\.weight' is U8; quantised checkpoints are not"
    ):
        load_worker(folder, 0, 1)
