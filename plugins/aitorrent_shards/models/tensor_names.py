"""Names of a checkpoint's tensors: which of them belong to a range of layers."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names from a model that was saved inside torch's wrappers: compiled, sharded, or with
activation checkpoints. DistributedDataParallel puts `module` first."""
_LAYER: Final = re.compile(r"layers\.(\d{1,6})\.", re.ASCII)
_EMBEDDING: Final = "embed_tokens."
_NORM: Final = "norm."
_HEAD: Final = "lm_head."


def unwrapped(name: str) -> str:
    """A tensor's name without the parts that torch's wrappers add."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def _bare(name: str) -> str:
    """The name without wrappers and without the prefix of a model that was saved with its head."""
    return unwrapped(name).removeprefix("model.")


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """Which tensors a node needs that computes layers [start, end) of `layers`."""

    start: int
    end: int
    layers: int

    def among(self, names: Collection[str]) -> set[str]:
        """Those of a whole checkpoint's tensors that are needed.

        The first layer brings the embedding, the last one the norm and the head. With tied weights
        only one of embedding and head is saved, and serves for both.
        """
        bare = {name: _bare(name) for name in names}
        has_embedding = any(b.startswith(_EMBEDDING) for b in bare.values())
        has_head = any(b.startswith(_HEAD) for b in bare.values())
        embeds, predicts = self.start == 0, self.end == self.layers
        prefixes = [_NORM] if predicts else []
        if embeds or (predicts and not has_head):
            prefixes.append(_EMBEDDING if has_embedding else _HEAD)
        if predicts:
            prefixes.append(_HEAD if has_head else _EMBEDDING)
        return {n for n, b in bare.items() if b.startswith(tuple(prefixes)) or self._holds(b)}

    def _holds(self, bare: str) -> bool:
        match = _LAYER.match(bare)
        return match is not None and self.start <= int(match[1]) < self.end
