"""How many positions a model takes: max_position_embeddings, scaled once by its rotary embedding.

Some configurations give the scaled length there, others the one before scaling; both occur with the
same `rope_type`, so what tells them apart is `original_max_position_embeddings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_FACTOR = 1 << 16


def context_length(positions: int, rope: Mapping[str, Any] | None) -> int:
    """Positions that a model takes, of which max_position_embeddings says `positions`.

    `rope` is `rope_parameters` of config.json, or `rope_scaling`, its older name.
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
        # The scaled length, where the original one is given and differs.
        return positions if original < positions else round(positions * factor)
    if kind == "longrope" and original == positions:
        return round(positions * factor)
    return positions
