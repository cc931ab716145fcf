"""A model's context length: max_position_embeddings, scaled once by its rotary embedding.

Some configurations store the scaled length there, others the original one; both occur with the same
`rope_type`, so only `original_max_position_embeddings` distinguishes them. Without it, a factor
scales what is stated, as in vLLM (transformers itself limits no prompt).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_MAX_FACTOR: Final = 1 << 16
_SCALED: Final = ("linear", "dynamic", "longrope")
"Kinds whose max_position_embeddings is scaled already if the original length is another."


def context_length(
    positions: int, rope: Mapping[str, Any] | None, stated_original: object = None
) -> int:
    """The context length of a model whose max_position_embeddings is `positions`.

    `rope` is `rope_parameters` from config.json, or `rope_scaling`, its older name;
    `stated_original` is `original_max_position_embeddings` beside it, which comes first.
    """
    rope = rope or {}
    kind = rope.get("rope_type", rope.get("type"))
    factor = rope.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        return positions
    if not 1 <= factor <= _MAX_FACTOR:
        return positions
    stated = (stated_original, rope.get("original_max_position_embeddings"))
    original = next((o for o in stated if type(o) is int and 1 <= o <= positions), positions)
    if kind == "yarn":
        return max(positions, round(original * factor))
    if kind in _SCALED and original == positions:
        return round(positions * factor)
    return positions
