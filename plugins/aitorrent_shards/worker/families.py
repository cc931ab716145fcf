"""Supported model families, and what the worker must know about a model before loading weights.

A family is listed once its parity test passes: greedy tokens of chained layer ranges equal those of
transformers' generate(). Everything else is read from the transformers model itself, which is built
on the meta device (shapes, no memory). Code in a model directory is never run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from aitorrent_shards.models.context_length import context_length
from aitorrentd.api import InvalidParams, NotFound

Windows = Literal["none", "all", "by layer"]
"Which layers use config.sliding_window: none, all (if it is set), or those in layer_types."

FAMILIES: Final[Mapping[str, Windows]] = {
    "llama": "none",
    "mistral": "all",
    "qwen2": "by layer",
    "qwen3": "by layer",
}
"Supported values of model_type."

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

MAX_CONFIG_BYTES: Final = 1024 * 1024
_LIMITS: Final[Mapping[str, int]] = {
    "num_hidden_layers": 1024,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 4096,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 24,
}
"Far above any known model; a config.json that exceeds them is damaged or hostile."


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The properties of a model, from config.json."""

    family: str
    config: Any
    "The transformers configuration."
    layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    "lm_head may share the embedding matrix."
    windows: tuple[int | None, ...]
    "For each layer: how many positions a query sees, including itself; None = all."

    def kv_bytes_per_position(self, dtype: torch.dtype) -> int:
        """Cache bytes per layer and position."""
        return 2 * self.kv_heads * self.head_dim * dtype.itemsize


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise ValueError(f"longer than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(raw.decode())
        if not isinstance(config, dict):
            raise ValueError("not a JSON map")
    except FileNotFoundError:
        raise NotFound(f"no config.json in {directory}") from None
    except OSError as e:
        raise InvalidParams(f"cannot read {path}: {e.strerror}") from None
    except (ValueError, RecursionError) as e:
        raise InvalidParams(f"{path} is damaged: {e}") from None
    return config


def _check_sizes(config: Mapping[str, Any], path: Path) -> None:
    for name, limit in _LIMITS.items():
        value = config.get(name)
        if value is not None and not (type(value) is int and 1 <= value <= limit):
            raise InvalidParams(f"{path}: {name} is {str(value)[:40]}; expected 1 to {limit}")


def _windows(family: str, config: Any, layers: int) -> tuple[int | None, ...]:
    window = getattr(config, "sliding_window", None)
    if window is None or FAMILIES[family] == "none":
        return (None,) * layers
    if FAMILIES[family] == "all":
        return (window,) * layers
    return tuple(
        window if kind == "sliding_attention" else None for kind in config.layer_types[:layers]
    )


def read_anatomy(directory: Path) -> Anatomy:
    """The contents of `directory`/config.json, as interpreted by transformers.

    Raises:
        NotFound: no config.json. InvalidParams: damaged, or not a supported family.
    """
    raw = _read_config(directory)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InvalidParams(
            f"model family {str(family)[:80]!r} is not supported; these are:"
            f" {', '.join(sorted(FAMILIES))}",
            supported=sorted(FAMILIES),
        )
    if "quantization_config" in raw:
        raise InvalidParams("quantised checkpoints are not supported; use the unquantised model")
    path = directory / "config.json"
    _check_sizes(raw, path)
    try:
        config = AutoConfig.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
        layers = config.num_hidden_layers
        return Anatomy(
            family=family,
            config=config,
            layers=layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            max_positions=context_length(config.max_position_embeddings, config.rope_parameters),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            tied=bool(config.tie_word_embeddings),
            windows=_windows(family, config, layers),
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError) as e:
        raise InvalidParams(f"{path} is damaged: {type(e).__name__}: {str(e)[:400]}") from None


@dataclass(frozen=True, slots=True)
class Skeleton:
    """The parts of a causal language model, on the meta device."""

    embed: nn.Embedding
    layers: nn.ModuleList
    norm: nn.Module
    head: nn.Linear
    rotary: nn.Module


def build_skeleton(anatomy: Anatomy, dtype: torch.dtype) -> Skeleton:
    """The transformers model of `anatomy` without weights, split into its parts.

    Raises:
        InvalidParams: transformers cannot build it, or its structure is not the expected one.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                anatomy.config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
            )
        model.eval()
        body = model.model
        parts = Skeleton(body.embed_tokens, body.layers, body.norm, model.lm_head, body.rotary_emb)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError) as e:
        raise InvalidParams(
            f"transformers cannot build this {anatomy.family} model:"
            f" {type(e).__name__}: {str(e)[:400]}"
        ) from None
    if (
        len(parts.layers) != anatomy.layers
        or not isinstance(parts.head, nn.Linear)
        or not isinstance(parts.embed, nn.Embedding)
    ):
        raise InvalidParams(
            f"this transformers version builds {anatomy.family} differently than expected"
        )
    return parts


def pick_dtype(name: str, anatomy: Anatomy, of_files: Callable[[], torch.dtype]) -> torch.dtype:
    """The dtype called `name`; "auto" is the one in config.json, else that of the files.

    A dtype unsupported for computation becomes float32.

    Raises:
        InvalidParams: no such dtype. Else as `of_files`.
    """
    if name == "auto":
        stated = getattr(anatomy.config, "dtype", None) or of_files()
        return next((d for d in DTYPES.values() if d == stated), torch.float32)
    if name not in DTYPES:
        raise InvalidParams(f"dtype {name[:40]!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]
