"""Supported model families, and what the worker must know about a model before loading weights.

A family is listed once its parity test passes: greedy tokens of chained layer ranges equal those of
transformers' generate(). Everything else is read from the transformers model itself, which is built
on the meta device (shapes, no memory). Code in a model directory is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from aitorrent_shards.models.context_length import context_length
from aitorrent_shards.worker.model_config import read_model_config
from aitorrentd.api import InvalidParams

_WINDOWED: Final = ("mistral", "qwen2", "qwen3")
"Families with sliding windows: in the layers that layer_types names, or in all if it names none."

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


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


def _windows(family: str, config: Any, layers: int) -> tuple[int | None, ...]:
    """As in `Anatomy`.

    Raises:
        InvalidParams: sliding windows in a family without them.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None:
        return (None,) * layers
    if kinds is None:
        kinds = ["sliding_attention"] * layers
    if family not in _WINDOWED and "sliding_attention" in kinds:
        # transformers computes neither full nor windowed attention then: it ignores the window in
        # its masks but not in its cache.
        raise InvalidParams(
            f"config.json states a sliding_window of {window}, which {family} models do not have;"
            " remove it if the model was trained with full attention"
        )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[:layers])


def read_anatomy(directory: Path) -> Anatomy:
    """The contents of `directory`/config.json, as interpreted by transformers.

    Raises:
        NotFound: no config.json. InvalidParams: damaged, or it states something unsupported.
    """
    stated = read_model_config(directory)
    family, path = stated["model_type"], directory / "config.json"
    try:
        config = CONFIG_MAPPING[family].from_dict(stated)
        layers = config.num_hidden_layers
        anatomy = Anatomy(
            family=family,
            config=config,
            layers=layers,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            max_positions=context_length(
                config.max_position_embeddings,
                config.rope_parameters,
                getattr(config, "original_max_position_embeddings", None),
            ),
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None)
            or config.hidden_size // config.num_attention_heads,
            tied=bool(config.tie_word_embeddings),
            windows=_windows(family, config, layers),
        )
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError) as e:
        raise InvalidParams(f"{path} is damaged: {type(e).__name__}: {str(e)[:400]}") from None
    if anatomy.kv_heads < 1 or anatomy.heads % anatomy.kv_heads:
        raise InvalidParams(
            f"{path}: {anatomy.heads} attention heads cannot share {anatomy.kv_heads} key-value"
            " heads; num_key_value_heads must divide num_attention_heads"
        )
    return anatomy


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
            model = AutoModelForCausalLM.from_config(
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
