"""Model directories that are incomplete, damaged, hostile or of another kind: clear refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aitorrent_shards.worker.weights import Checkpoint
from aitorrentd.errors import AitorrentError, InvalidParams, NotFound
from tests.support.effort import examples
from tests.support.shards.shards_worker import load_worker

MakeModel = Callable[..., Path]


@pytest.fixture
def copy(model: MakeModel, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a model that a test may damage."""

    def make(**changes: Any) -> Path:
        return Path(shutil.copytree(model(**changes), tmp_path / "copy"))

    return make


def _edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps(config))


def _edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)


def test_missing_directory_or_config_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound, match="no config.json in"):
            load_worker(path, 0, 1)


def test_missing_weights_are_not_found(copy: Callable[..., Path]) -> None:
    path = copy()
    (path / "model.safetensors").unlink()
    with pytest.raises(NotFound, match="no model.safetensors or model.safetensors.index.json"):
        load_worker(path, 0, 1)


def test_missing_part_of_a_sharded_checkpoint_is_named(copy: Callable[..., Path]) -> None:
    path = copy(shards=3)
    part = path / "model-00002-of-00003.safetensors"
    part.unlink()
    with pytest.raises(NotFound, match="model-00002-of-00003.safetensors is missing"):
        load_worker(path, 0, 6)


UNSUPPORTED = ["gpt2", "mixtral", "gemma3_text", "granite", "smollm3", "gpt_oss", None, 7, "../x"]


@pytest.mark.parametrize("family", UNSUPPORTED)
def test_unsupported_families_are_refused_with_those_that_work(
    copy: Callable[..., Path], family: object
) -> None:
    path = copy()
    _edit_config(path, model_type=family)
    with pytest.raises(InvalidParams, match="these are: llama, mistral, qwen2, qwen3"):
        load_worker(path, 0, 1)


def test_code_beside_the_model_is_never_run(copy: Callable[..., Path]) -> None:
    path = copy()
    (path / "evil.py").write_text("raise SystemExit('code from a model directory ran')\n")
    _edit_config(path, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    load_worker(path, 0, 6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised .*_config: fp8\)"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantised .*quantization: .*64"),
        ({"compression_config": {"format": "int"}}, "quantised .*compression_config"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "only LlamaForCausalLM is$"),
        (
            {"architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "m.Own"}},
            "OwnForCausalLM of model_type llama .*, and code from a model's folder is never run",
        ),
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope type 'su' is not one of default"),
        ({"rope_scaling": {"type": "mrope"}}, "rope type 'mrope' is not one of"),
        ({"rope_scaling": {"type": ["yarn"]}}, "rope type .* is not one of"),
        ({"sliding_window": 20}, "a sliding_window of 20, which llama models do not have"),
        ({"sliding_window": 0}, "sliding_window is 0; expected 2 or more, or null"),
        ({"layer_types": ["chunked_attention"] * 6}, "layer type 'chunked_attention' is not"),
        ({"num_attention_heads": 4, "num_key_value_heads": 8}, "4 attention heads cannot share 8"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; expected 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected 1 to 1024"),
        ({"hidden_size": "64"}, "hidden_size is 64; expected"),
        ({"hidden_size": True}, "hidden_size is True; expected"),
        ({"vocab_size": -1}, "vocab_size is -1; expected"),
        ({"num_key_value_heads": 0}, "must divide num_attention_heads"),
        ({"head_dim": "x"}, "damaged"),
        ({"hidden_act": "no such"}, "cannot build this llama model"),
        ({"rope_scaling": {"rope_type": "no such"}}, "rope type 'no such' is not one of"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
            "the layers cannot be computed as config.json describes them",
        ),
        ({"hidden_size": 128}, "has shape .*; config.json makes it"),
        ({"num_attention_heads": 8}, "has shape .*; config.json makes it"),
        ({"intermediate_size": 1 << 20}, "has shape .*; config.json makes it"),
    ],
)
def test_config_that_does_not_fit_is_refused(
    copy: Callable[..., Path], changes: dict[str, Any], says: str
) -> None:
    path = copy()
    _edit_config(path, **changes)
    with pytest.raises(InvalidParams, match=says):
        load_worker(path, 0, 6)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 10**5, b'{"a":1}' * 200_000])
def test_config_that_is_no_json_map_is_refused(copy: Callable[..., Path], raw: bytes) -> None:
    path = copy()
    (path / "config.json").write_bytes(raw)
    with pytest.raises(InvalidParams, match=r"config.json is damaged"):
        load_worker(path, 0, 6)


def test_missing_tensor_is_named_where_it_is_needed(copy: Callable[..., Path]) -> None:
    path = copy()
    _edit_tensors(path, lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    with pytest.raises(InvalidParams, match=r"no tensor 'model.layers.3.mlp.up_proj.weight'"):
        load_worker(path, 2, 4)
    load_worker(path, 0, 3)


def test_missing_head_is_named_unless_the_embedding_is_tied(copy: Callable[..., Path]) -> None:
    path = copy()
    _edit_tensors(path, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(InvalidParams, match="no tensor 'lm_head.weight'"):
        load_worker(path, 5, 6)
    _edit_config(path, tie_word_embeddings=True)
    load_worker(path, 5, 6)


def test_integer_weights_are_refused(copy: Callable[..., Path]) -> None:
    path = copy()

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)

    _edit_tensors(path, edit)
    with pytest.raises(InvalidParams, match=r"'model.norm.weight' is I8; quantised"):
        load_worker(path, 5, 6)


@pytest.mark.parametrize("cut", [1, 1000, 900_000])
def test_truncated_weights_are_refused(copy: Callable[..., Path], cut: int) -> None:
    file = copy() / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-cut])
    with pytest.raises(InvalidParams, match="truncated"):
        load_worker(file.parent, 0, 6)


def test_file_that_shrinks_while_it_is_read_is_refused(copy: Callable[..., Path]) -> None:
    path = copy()
    with Checkpoint(path) as checkpoint:
        checkpoint.find("lm_head.weight")
        (path / "model.safetensors").write_bytes(b"")
        with pytest.raises(InvalidParams, match="ended early"):
            checkpoint.load("model.norm.weight", (64,), torch.float32, torch.device("cpu"))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"{", "index.json is damaged"),
        (b"[]", "must map tensor names"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": 5}', "must map tensor names"),
        (b'{"weight_map": {"a": 1}}', "must map tensor names"),
        (b'{"weight_map": {"a": "../../secret.safetensors"}}', "must map tensor names"),
        (b'{"weight_map": {"a": "/etc/passwd"}}', "must map tensor names"),
        (b"[" * 10**5, "index.json is damaged"),
    ],
)
def test_damaged_index_is_refused(copy: Callable[..., Path], index: bytes, says: str) -> None:
    path = copy(shards=3)
    (path / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(InvalidParams, match=says):
        load_worker(path, 0, 6)


def test_checkpoint_closes_its_files(model: MakeModel) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with Checkpoint(model(shards=3)) as checkpoint:
        assert checkpoint.find("model.norm.weight") is not None
        assert checkpoint.find("model.layers.0.mlp.up_proj.weight") is not None
        assert checkpoint.find("no such tensor") is None
        assert count() > before
    assert count() == before


@pytest.mark.parametrize("stored", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_converted_as_torch_converts(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    size = 2_500_001  # several pieces, the last one odd
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(stored)
    save_file(
        {"pad": torch.zeros(3, dtype=torch.uint8), "x": tensor}, tmp_path / "model.safetensors"
    )
    with Checkpoint(tmp_path) as checkpoint:
        loaded = checkpoint.load("x", (size,), wanted, torch.device("cpu"))
    assert torch.equal(loaded, tensor.to(wanted))


@given(at=st.integers(0, 1 << 20), value=st.integers(0, 255))
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_changed_byte_in_config_or_header_loads_or_is_refused(
    model: MakeModel, tmp_path: Path, at: int, value: int
) -> None:
    path = Path(shutil.copytree(model(), tmp_path / "copy", dirs_exist_ok=True))
    file = path / ("config.json" if at % 2 else "model.safetensors")
    raw = bytearray(file.read_bytes())
    # Both files begin with what is parsed; weights themselves are not checked.
    raw[at // 2 % min(len(raw), 4096)] = value
    file.write_bytes(raw)
    try:
        load_worker(path, 0, 2)
    except AitorrentError as e:
        assert e.code in ("invalid_params", "not_found")
