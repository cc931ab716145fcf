"""Settings that config.json may state: the same tokens as transformers, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
from safetensors.torch import load_file, save_file

from aitorrent_shards.models.folder import read_model
from aitorrent_shards.worker.families import read_anatomy
from aitorrent_shards.worker.process import ShardWorker
from aitorrentd.api import InvalidParams
from aitorrentd.wire import Frame
from tests.support.shards.models import make_as_configured
from tests.support.shards.shards_worker import (
    Chain,
    load_request,
    load_worker,
    random_prompt,
    reference_tokens,
)

pytestmark = pytest.mark.slow

LAYERS: Final = 4
NEW: Final = 6
YARN: Final = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
LLAMA3: Final = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG: Final = {
    "type": "longrope",
    "short_factor": [1.0] * 8,
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0],
}
MIXED: Final = ["sliding_attention", "full_attention"] * 2
FULL: Final = ["full_attention"] * LAYERS
WINDOW: Final = {"sliding_window": 20, "use_sliding_window": True}

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True, "head_dim": 24}),
    "width of a head": ("llama", {"head_dim": 24}),
    "width of a head, unstated": ("mistral", {"head_dim": None}),
    "heads, unstated": ("llama", {"num_key_value_heads": None}),
    "partial rotary factor, not used by llama": ("llama", {"partial_rotary_factor": 0.5}),
    "activation": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "tied, unstated": ("qwen2", {"tie_word_embeddings": None}),
    "positions, unstated": ("llama", {"max_position_embeddings": None}),
    "one architecture of several": ("llama", {"architectures": ["Own", "LLaMAForCausalLM"]}),
    "no architecture": ("llama", {"architectures": None}),
    "yarn with mscale": ("llama", {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}}),
    "yarn, all stated": (
        "llama",
        {
            "rope_scaling": YARN
            | {"attention_factor": 1.3, "beta_fast": 16, "beta_slow": 2, "truncate": False}
        },
    ),
    "yarn without factor": (
        "llama",
        {"rope_scaling": YARN | {"factor": None}, "max_position_embeddings": 400},
    ),
    "yarn, original length outside": (
        "llama",
        {
            "rope_scaling": {"type": "yarn", "factor": 4.0},
            "original_max_position_embeddings": 100,
            "max_position_embeddings": 400,
        },
    ),
    "longrope, original length outside": (
        "llama",
        {
            "rope_scaling": LONG | {"factor": 4.0},
            "original_max_position_embeddings": 100,
            "max_position_embeddings": 400,
        },
    ),
    "theta in the newer place": (
        "llama",
        {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}, "rope_theta": None},
    ),
    "theta in both places": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}, "rope_theta": 1e4},
    ),
    "scaling in both places": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}, "rope_scaling": LLAMA3},
    ),
    "theta as an integer": ("qwen2", {"rope_theta": 1_000_000}),
    "theta, unstated": ("qwen3", {"rope_theta": None}),
    "no scaling, but a map": ("llama", {"rope_scaling": {}}),
    "factor without a type": ("llama", {"rope_scaling": {"factor": 2.0}}),
    "sections of a multimodal model": (
        "qwen2",
        {"rope_scaling": {"type": "default", "mrope_section": [2, 3, 3]}},
    ),
    "some layers with windows": ("qwen2", WINDOW | {"max_window_layers": 2}),
    "windows above the last layer": ("qwen3", WINDOW),
    "windows switched off": ("qwen2", {"sliding_window": 20, "use_sliding_window": False}),
    "windows of mistral by layer": ("mistral", {"sliding_window": 20, "layer_types": MIXED}),
    "windows of mistral in no layer": ("mistral", {"sliding_window": 20, "layer_types": FULL}),
    "windows of llama in no layer": ("llama", {"sliding_window": 20, "layer_types": FULL}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_split_model_gives_the_tokens_of_transformers(tmp_path: Path, name: str) -> None:
    family, changes = SETTINGS[name]
    path = make_as_configured(tmp_path / "m", changes, family=family, layers=LAYERS)
    workers = [load_worker(path, 0, 2), load_worker(path, 2, LAYERS)]
    for n in (3, 60, 130):
        prompt = random_prompt(n)
        session = Chain(workers, [0, 2, LAYERS], max_positions=n + NEW, prompt=n)
        assert session.generate(prompt, NEW, chunk=50) == reference_tokens(path, prompt, NEW), n
    context = read_model(path).context
    assert context is None or context == read_anatomy(path).max_positions


def test_window_is_off_where_the_settings_switch_it_off(tmp_path: Path) -> None:
    """transformers cannot build this one, which names windows by layer and switches them off."""
    changes = {"sliding_window": 20, "use_sliding_window": False, "layer_types": MIXED}
    path = make_as_configured(tmp_path / "m", changes, family="qwen3", layers=LAYERS)
    assert read_anatomy(path).windows == (None,) * LAYERS


@pytest.mark.parametrize("name", ["quantization_config", "sliding_window", "rope_scaling"])
def test_null_states_nothing(tmp_path: Path, name: str) -> None:
    path = make_as_configured(tmp_path / "m", {"layer_types": FULL[:2]}, layers=2)
    config = path / "config.json"
    config.write_text(config.read_text().replace("{", f'{{"{name}": null, ', 1))
    assert read_anatomy(path).windows == (None, None)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "bfloat16", "torch_dtype": "float16"}, "bfloat16"),
        ({"torch_dtype": "torch.float16"}, "float16"),
        ({"dtype": "auto"}, "float32"),
        ({"torch_dtype": "auto"}, "float32"),
        ({"dtype": "float64"}, "float32"),
    ],
)
def test_number_format_is_read_as_people_write_it(
    tmp_path: Path, stated: dict[str, str], expected: str
) -> None:
    path = make_as_configured(tmp_path / "m", {"torch_dtype": None}, layers=2)
    config = path / "config.json"
    config.write_text(config.read_text().replace("{", '{"torch_dtype": null, ', 1))
    text = "".join(f'"{name}": "{value}", ' for name, value in stated.items())
    config.write_text(config.read_text().replace('"torch_dtype": null, ', text, 1))
    answer, _ = ShardWorker()(Frame(load_request(path, 0, 2, dtype="auto")))
    assert answer["dtype"] == expected


def test_activations_beyond_float16_end_the_answer_with_that_reason(tmp_path: Path) -> None:
    path = make_as_configured(tmp_path / "m", {}, layers=2)
    tensors = load_file(path / "model.safetensors")
    for part in ("up", "down"):
        tensors[f"model.layers.0.mlp.{part}_proj.weight"] *= 1e4  # as trained in bfloat16
    save_file(tensors, path / "model.safetensors")
    worker = load_worker(path, 0, 2, dtype="float16")
    session = Chain([worker], [0, 2], max_positions=10)
    with pytest.raises(InvalidParams, match="exceed the range of float16: use bfloat16"):
        session.feed(random_prompt(4))


def test_answer_may_fill_the_context_to_the_last_position(tmp_path: Path) -> None:
    path = make_as_configured(tmp_path / "m", {"max_position_embeddings": 40}, layers=2)
    worker = load_worker(path, 0, 2)
    prompt = random_prompt(34)
    session = Chain([worker], [0, 2], max_positions=40, prompt=34)
    assert session.generate(prompt, 6) == reference_tokens(path, prompt, 6)
    with pytest.raises(InvalidParams, match="41 positions exceed the model's context of 40"):
        Chain([worker], [0, 2], max_positions=41)
