"""Angles of the rotary embedding, from a position and the length of the sequence it is in.

`dynamic` and `longrope` choose their frequencies by that length. The modules of transformers take
it from the positions of one call and remember it for the next; a prompt that comes in pieces, or
sessions that share a module, would get other angles. So the frequencies are made here, by
transformers' own functions, for a length that the caller gives: nothing is remembered.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aitorrent_shards.worker.families import Anatomy

_BY_LENGTH: Final = ("dynamic", "longrope")


class Rotary:
    """The rotary embedding of a model, without state."""

    def __init__(self, module: Any, anatomy: Anatomy, device: torch.device) -> None:
        """`module` is transformers' own, on any device; its buffers come from the configuration."""
        config = anatomy.config
        self._config, self._device = config, device
        self._module: nn.Module = type(module)(config).to(device)
        parameters = config.rope_parameters
        self._kind: str = parameters["rope_type"]
        self._scaling: float = self._module.attention_scaling
        self._switch: int = (
            parameters["original_max_position_embeddings"]
            if self._kind == "longrope"
            else config.max_position_embeddings
        )
        self._known: dict[bool, torch.Tensor] = {}
        "Frequencies up to the switch, and for longrope beyond it, where they are always the same."

    def __call__(
        self, like: torch.Tensor, positions: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [1, n, head_dim] of positions [1, n] in a sequence of `length` positions,
        in the dtype of `like`."""
        if self._kind not in _BY_LENGTH:
            cos, sin = self._module(like, position_ids=positions)
            return cos, sin
        angles = positions[..., None].float() * self._frequencies(length)
        both = torch.cat((angles, angles), dim=-1)
        return (
            (both.cos() * self._scaling).to(like.dtype),
            (both.sin() * self._scaling).to(like.dtype),
        )

    def _frequencies(self, length: int) -> torch.Tensor:
        beyond = length > self._switch
        if (known := self._known.get(beyond)) is not None:
            return known
        # A tensor, as transformers has it: dynamic scaling is computed in its float32.
        seq_len = torch.tensor(length) if beyond else None
        frequencies, _ = ROPE_INIT_FUNCTIONS[self._kind](
            self._config, self._device, seq_len=seq_len
        )
        if not beyond or self._kind == "longrope":
            self._known[beyond] = frequencies
        return frequencies
