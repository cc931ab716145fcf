"""Ollama's `options`: how to sample, and how a server of its own would run the model. No I/O.

Clients send nulls, floats where integers are meant, and options of every version of Ollama.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aitorrent_gateway.core.fields import LIKELIEST_TOP_P, MAX_SEED, present, unsupported, wrong
from aitorrentd.api.models.sampling import REST_OF_CONTEXT

_FLOATS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_WHOLE: Final = ("top_k", "repeat_last_n", "seed", "num_predict", "num_ctx")
# They tell Ollama how to run a model on its machine, or belong to a sampler that it no longer has.
_NO_EFFECT: Final = frozenset(
    {
        "draft_num_predict",
        "embedding_only",
        "f16_kv",
        "gpu_layers",
        "logits_all",
        "low_vram",
        "main_gpu",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_gpu",
        "num_gqa",
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "rope_frequency_base",
        "rope_frequency_scale",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
# What would change the answer, with the value that asks for nothing.
_OFF: Final = {"mirostat": 0, "tfs_z": 1, "typical_p": 1}
KNOWN: Final = frozenset({*_FLOATS, *_WHOLE, *_NO_EFFECT, *_OFF, "stop"})


def params_of(given: Any) -> dict[str, Any]:
    """The parameters of this node that Ollama's options stand for.

    Raises:
        InvalidParams: one has no valid value, or cannot be done here.
    """
    if not isinstance(given, dict):
        raise wrong("options", "must be an object")
    options = present(given)
    for name, off in _OFF.items():
        if name in options and options[name] != off:
            raise unsupported(f"options.{name}")
    params: dict[str, Any] = {
        name: _number(name, options[name]) for name in _FLOATS if name in options
    }
    if params.get("top_p", 1) <= 0:
        params["top_p"] = LIKELIEST_TOP_P
    whole: dict[str, int] = {
        name: _whole(name, options[name]) for name in _WHOLE if name in options
    }
    return params | _whole_params(whole) | _stop(options.get("stop"))


def _whole_params(whole: Mapping[str, int]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    if "top_k" in whole:
        params["top_k"] = max(whole["top_k"], 0)
    if "repeat_last_n" in whole:
        params["repeat_last_n"] = max(whole["repeat_last_n"], -1)
    if whole.get("seed", -1) != -1:  # -1: any
        params["seed"] = whole["seed"] % MAX_SEED
    if limit := whole.get("num_predict", 0):
        # -1: until the model ends, -2: until the context is full
        params["max_tokens"] = limit if limit > 0 else REST_OF_CONTEXT
    if whole.get("num_ctx", 0) > 0:
        params["num_ctx"] = whole["num_ctx"]
    return params


def _stop(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise wrong("options.stop", "must be a list of strings")
    return {"stop": tuple(dict.fromkeys(filter(None, texts)))}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(f"options.{name}", "must be a number")
    return value


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise wrong(f"options.{name}", "must be an integer")
    return int(number)
