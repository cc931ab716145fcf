"""A model's context length: max_position_embeddings, scaled once by its rotary embedding.

Some configurations store the scaled length there, others the original one; both occur with the same
`rope_type`, so only `original_max_position_embeddings` distinguishes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_FACTOR = 1 << 16


def context_length(positions: int, rope: Mapping[str, Any] | None) -> int:
    """The context length of a model whose max_position_embeddings is `positions`.

    `rope` is `rope_parameters` from config.json, or `rope_scaling`, its older name.
    """
    rope = rope or {}
    kind = rope.get("rope_type", rope.get("type"))
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings")
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        return positions
    if not 1 <= factor <= _MAX_FACTOR:
        return positions
    if type(original) is not int or not 1 <= original <= positions:
        original = positions
    if kind == "yarn":
        return max(positions, round(original * factor))
    if kind == "dynamic":
        # Already scaled if the original length is given and differs.
        return positions if original < positions else round(positions * factor)
    if kind == "longrope" and original == positions:
        return round(positions * factor)
    return positions
