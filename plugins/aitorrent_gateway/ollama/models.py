"""Models in Ollama's shapes: `/api/tags`, `/api/show` and `/api/ps`. No I/O.

Clients crash on what is missing: `model_info` must be an object, a digest at least 12 digits long,
a time a valid one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Set
from typing import Any, Final

from aitorrent_gateway.ollama.names import tagged
from aitorrent_gateway.ollama.shapes import when
from aitorrentd.api import ModelView

FOREVER: Final = "9999-12-31T23:59:59Z"
"When a model leaves memory that stays in it."
_FORMATS: Final = {"shards": "safetensors", "ollama": "gguf"}
# A feature of a backend, and what Ollama calls it.
_CAPABILITIES: Final = {"tools": "tools", "images": "vision", "think": "thinking"}
_UNKNOWN: Final = "unknown"


def capabilities(features: Set[str] | None, *, is_embedding: bool = False) -> list[str]:
    """What a model can do, from the features of its backend; None = unknown. Clients hide a model
    without `tools`, so one whose features are unknown is given the benefit of the doubt: a backend
    refuses by name what it cannot do."""
    if is_embedding:
        return ["embedding"]
    able = [name for feature, name in _CAPABILITIES.items() if feature in (features or ())]
    return ["completion", *(["tools"] if features is None else able)]


def tag(view: ModelView, able: Sequence[str], began_s: float) -> dict[str, Any]:
    """A model as `/api/tags` lists it. `began_s` is when the node began to offer it."""
    return {
        **_common(view),
        "modified_at": when(began_s),
        "capabilities": list(able),
    }


def loaded(view: ModelView, now_s: float) -> dict[str, Any]:
    """A model in memory as `/api/ps` lists it, with the layers that each node computes."""
    common, on_card = _common(view), sum(part.vram_bytes or 0 for part in view.layers)
    ours = sum(part.rss_bytes or 0 for part in view.layers) + on_card
    return {
        **common,
        "size": ours or common["size"],  # what other nodes hold takes memory there
        "expires_at": FOREVER if view.leaves_s is None else when(now_s + view.leaves_s),
        "size_vram": on_card,
        "context_length": view.context_length or 0,
        "stages": sorted({(part.start, part.end) for part in view.layers}),
    }


def shown(view: ModelView, able: Sequence[str], began_s: float) -> dict[str, Any]:
    """A model as `/api/show` describes it."""
    family = view.family or _UNKNOWN
    facts: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": view.name.removesuffix(":latest"),
    }
    parameters = ""
    if view.context_length is not None:
        facts[f"{family}.context_length"] = view.context_length
        # Clients read the length of prompts from here, line by line.
        parameters = f"num_ctx                        {view.context_length}"
    if view.layers:
        facts[f"{family}.block_count"] = max(part.end for part in view.layers)
    if view.size_bytes is not None:
        facts["general.size"] = view.size_bytes
    # Clients look into the template for what a model takes; the real one stays with the model.
    template = "{{ if .Tools }}{{ .Tools }}{{ end }}" if "tools" in able else ""
    return {
        "license": "",
        "modelfile": f"FROM {view.name}\n",
        "parameters": parameters,
        "template": template + "{{ .System }}{{ .Prompt }}",
        "details": _details(view),
        "model_info": facts,
        "capabilities": list(able),
        "modified_at": when(began_s),
    }


def _common(view: ModelView) -> dict[str, Any]:
    name = tagged(view.name)
    # The bytes of a model that peers hold have no one digest; clients compare and shorten it.
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()
    return {
        "name": name,
        "model": name,
        "size": view.size_bytes or 0,
        "digest": digest,
        "details": _details(view),
    }


def _details(view: ModelView) -> dict[str, Any]:
    family = view.family or _UNKNOWN
    return {
        "parent_model": "",
        "format": _FORMATS.get(view.backend, ""),
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": "",
    }
