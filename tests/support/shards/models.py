"""Makes small random-weight models in Hugging Face layout on disk, one for each family.

A model directory has the same files as one on the Hub: config.json, generation_config.json,
tokenizer.json, tokenizer_config.json and safetensors, in one file or in several with an index. The
same arguments give the same bytes. Weights are scaled by 1/sqrt(fan_in), so that greedy answers
vary instead of repeating one token.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES: Final = ("llama", "qwen2", "qwen3", "mistral")
"The families that every parity test runs with."

BOS_ID: Final = 256
EOS_ID: Final = 257
_FIRST_MERGE_ID: Final = 258

_ARCHITECTURES: Final = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}


@dataclass(frozen=True, slots=True)
class Spec:
    """The model to make. The defaults give a model of about 200 kB that answers in milliseconds."""

    family: str = "llama"
    layers: int = 6
    hidden: int = 64
    intermediate: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    vocab: int = 320
    context: int = 512
    tied: bool = False
    sliding_window: int | None = None
    "Mistral: every layer; Qwen: every second layer; Llama has none."
    shards: int = 1
    "More than 1: that many files with an index, tensors distributed round-robin."
    dtype: torch.dtype = torch.float32
    seed: int = 0
    rope: dict[str, Any] | None = None
    "A rope_scaling entry, as in config.json."


SMALL: Final = Spec(
    layers=16,
    hidden=1024,
    intermediate=2816,
    heads=16,
    kv_heads=4,
    head_dim=64,
    vocab=8192,
    context=4096,
    seed=7,
)
"A Llama of 197.2 million parameters (789 MB in float32), for benchmarks."


def model_config(spec: Spec) -> dict[str, Any]:
    """The config.json of `spec`."""
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[spec.family]],
        "model_type": spec.family,
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.context,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": spec.tied,
        "torch_dtype": str(spec.dtype).removeprefix("torch."),
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }
    if spec.rope is not None:
        config["rope_scaling"] = spec.rope
    if spec.family == "mistral":
        config["sliding_window"] = spec.sliding_window
    elif spec.family in ("qwen2", "qwen3") and spec.sliding_window is not None:
        config["sliding_window"] = spec.sliding_window
        config["use_sliding_window"] = True
        config["layer_types"] = [
            "sliding_attention" if i % 2 else "full_attention" for i in range(spec.layers)
        ]
    return config


def tensor_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights, as in the checkpoint."""
    h, i, d = spec.hidden, spec.intermediate, spec.head_dim
    q, kv = spec.heads * d, spec.kv_heads * d
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab, h)}
    for n in range(spec.layers):
        layer = {
            "input_layernorm.weight": (h,),
            "self_attn.q_proj.weight": (q, h),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.v_proj.weight": (kv, h),
            "self_attn.o_proj.weight": (h, q),
            "post_attention_layernorm.weight": (h,),
            "mlp.gate_proj.weight": (i, h),
            "mlp.up_proj.weight": (i, h),
            "mlp.down_proj.weight": (h, i),
        }
        if spec.family == "qwen2":
            layer |= {
                f"self_attn.{p}_proj.bias": (s,) for p, s in zip("qkv", (q, kv, kv), strict=True)
            }
        if spec.family == "qwen3":
            layer |= {"self_attn.q_norm.weight": (d,), "self_attn.k_norm.weight": (d,)}
        shapes |= {f"model.layers.{n}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (h,)
    if not spec.tied:
        shapes["lm_head.weight"] = (spec.vocab, h)
    return shapes


def _draw(shapes: dict[str, tuple[int, ...]], spec: Spec) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(spec.seed)
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=draw)
        if name.endswith("norm.weight"):
            tensor = 1 + 0.1 * tensor
        elif name.endswith("bias"):
            tensor = 0.1 * tensor
        elif "embed_tokens" not in name or spec.tied:
            tensor /= math.sqrt(shape[-1])
        tensors[name] = tensor.to(spec.dtype)
    return tensors


def make_as_configured(directory: Path, changes: dict[str, Any], **spec: Any) -> Path:
    """A model with `changes` in its config.json, where null removes an entry; its weights are those
    of the modules that transformers builds from that file."""
    make_model(directory, **spec)
    config = json.loads((directory / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept, indent=2))
    factory: Any = AutoModelForCausalLM
    built = factory.from_config(AutoConfig.from_pretrained(directory))
    shapes = {name: tuple(p.shape) for name, p in built.named_parameters()}
    _save(directory, _draw(shapes, Spec(**spec)), 1)
    return directory


def _save(directory: Path, tensors: dict[str, torch.Tensor], shards: int) -> None:
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = names[k::shards]
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _byte_letters() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def make_tokenizer(vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer in which every id below `vocab` is a token.

    Any text can be encoded: ids 0 to 255 are the bytes, then come <s> and </s>, then merges of
    letters.
    """
    letters = _byte_letters()
    ids = {letter: n for n, letter in enumerate(letters)}
    ids |= {"<s>": BOS_ID, "</s>": EOS_ID}
    merges: list[tuple[str, str]] = []
    words = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    single = tuple(words)
    while len(ids) < vocab:
        longer = [(w, c) for w in words for c in single][: vocab - len(ids)]
        for left, right in longer:
            ids[left + right] = len(ids)
            merges.append((left, right))
        words = [left + right for left, right in longer]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def make_model(directory: Path, spec: Spec | None = None, **changes: Any) -> Path:
    """Write a model to `directory` and return the directory; `changes` are fields of Spec.

    With `shards` above 1 the weights are split over several files, like big checkpoints on the Hub.
    """
    spec = Spec(**{**_fields(spec or Spec()), **changes})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(model_config(spec), indent=2))
    (directory / "generation_config.json").write_text(
        json.dumps({"bos_token_id": BOS_ID, "eos_token_id": EOS_ID})
    )
    if spec.vocab >= _FIRST_MERGE_ID:
        make_tokenizer(spec.vocab).save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
        )
    _save(directory, _draw(tensor_shapes(spec), spec), spec.shards)
    return directory


def _fields(spec: Spec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}
