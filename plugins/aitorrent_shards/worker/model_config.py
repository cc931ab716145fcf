"""A model's config.json, checked before transformers reads it.

What a checkpoint states and this worker would not compute is refused by name: ignoring it gives
fluent but wrong answers. transformers only warns in most of these cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aitorrent_shards.models.supported import check_config
from aitorrentd.api import InvalidParams, NotFound

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
_LAYER_TYPES: Final = ("full_attention", "sliding_attention")
_DTYPES: Final = ("dtype", "torch_dtype")


def read_model_config(directory: Path) -> dict[str, Any]:
    """The settings in `directory`/config.json.

    Raises:
        NotFound: no config.json. InvalidParams: damaged, or it states something unsupported.
    """
    path = directory / "config.json"
    config = _read(path)
    check_config(config)
    _check_sizes(config, path)
    _check_attention(config, path)
    for name in _DTYPES:
        stated = config.get(name)
        if isinstance(stated, str):
            config[name] = None if stated == "auto" else stated.removeprefix("torch.")
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        if len(raw) > MAX_CONFIG_BYTES:
            raise ValueError(f"longer than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(raw.decode())
        if not isinstance(config, dict):
            raise ValueError("not a JSON map")
    except FileNotFoundError:
        raise NotFound(f"no config.json in {path.parent}") from None
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


def _check_attention(config: Mapping[str, Any], path: Path) -> None:
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rope, dict):
        kind = rope.get("rope_type", rope.get("type", "default"))
        known = ("default", *sorted(ROPE_INIT_FUNCTIONS))
        if kind not in known:
            raise InvalidParams(
                f"{path}: rope type {str(kind)[:40]!r} is not one of {', '.join(known)}"
            )
    window = config.get("sliding_window")
    if window is not None and not (type(window) is int and window > 1):
        raise InvalidParams(
            f"{path}: sliding_window is {str(window)[:40]}; expected 2 or more, or null for none"
        )
    kinds = config.get("layer_types")
    for kind in kinds if isinstance(kinds, list) else ():
        if kind not in _LAYER_TYPES:
            raise InvalidParams(
                f"{path}: layer type {str(kind)[:40]!r} is not supported; these are:"
                f" {', '.join(_LAYER_TYPES)}"
            )
