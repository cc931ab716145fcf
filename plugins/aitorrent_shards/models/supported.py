"""Which models can be computed, as far as their config.json and their tensors tell.

Checked before weights are fetched, and again by the worker before it loads them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from aitorrent_shards.models.safetensors import Layout
from aitorrentd.api import InvalidParams

FAMILIES: Final[Mapping[str, str]] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"Supported values of model_type, with their class in transformers."
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
"Dtypes of weights that are computed with."
_QUANTISED: Final = ("quantization_config", "quantization", "compression_config")
"Used by transformers, MLX, and older releases of compressed-tensors."
_WEIGHT: Final = ".weight"


def check_config(config: Mapping[str, Any]) -> None:
    """That the model with this config.json is of a supported family, and not quantised.

    Raises:
        InvalidParams: it is not.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InvalidParams(
            f"model family {str(family)[:80]!r} is not supported; these are:"
            f" {', '.join(sorted(FAMILIES))}",
            supported=sorted(FAMILIES),
        )
    stated = config.get("architectures") or [FAMILIES[family]]
    names = [str(name) for name in stated] if isinstance(stated, list) else [str(stated)]
    # Some early checkpoints say LLaMAForCausalLM.
    if FAMILIES[family].lower() not in (name.lower() for name in names):
        raise InvalidParams(
            f"architecture {', '.join(names)[:80]} of model_type {family} is not supported; only"
            f" {FAMILIES[family]} is"
            + (", and code from a model's folder is never run" if config.get("auto_map") else "")
        )
    for name in _QUANTISED:
        if stated := config.get(name):
            method = stated.get("quant_method") if isinstance(stated, dict) else None
            raise InvalidParams(
                "quantised checkpoints are not supported"
                f" ({name}: {str(method or stated)[:80]}); use the unquantised model"
            )


def check_weights(layout: Layout, names: Collection[str], file: str) -> None:
    """That weights among the tensors `names` are floating-point numbers of a supported dtype.

    Raises:
        InvalidParams: one is not.
    """
    for name in names:
        dtype = layout.tensors[name].dtype
        if name.endswith(_WEIGHT) and dtype not in FLOATS:
            raise InvalidParams(
                f"{file}: tensor {name[:200]!r} is {dtype}; quantised checkpoints are not"
                " supported, use the unquantised model"
            )
