"""Angles of the rotary embedding, from a position and the length of its sequence.

`dynamic` and `longrope` choose their frequencies by that length. The modules of transformers derive
it from the positions of one call and keep it for the next; a prompt in pieces, or sessions that
share a module, would get wrong angles. So the frequencies are computed here, with transformers' own
functions, for a length given by the caller: there is no state.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from aitorrent_shards.worker.families import Anatomy

_BY_LENGTH: Final = ("dynamic", "longrope")


class Rotary:
    """The rotary embedding of a model, without state."""

    def __init__(self, module: Any, anatomy: Anatomy, device: torch.device) -> None:
        """`module` is transformers' own, on any device; its buffers are computed from the
        configuration."""
        config = anatomy.config
        self._config, self._device = config, device
        own = type(module)(config)
        parameters = config.rope_parameters
        self._kind: str = parameters["rope_type"]
        self._scaling: float = own.attention_scaling
        self._static: torch.Tensor | None = None
        "The frequencies, if they are the same for every length."
        if self._kind not in _BY_LENGTH:
            self._static = own.inv_freq.float().to(device)
        self._switch: int = (
            parameters["original_max_position_embeddings"]
            if self._kind == "longrope"
            else config.max_position_embeddings
        )
        self._known: dict[bool, torch.Tensor] = {}
        "The constant frequencies: up to the switch, and for longrope beyond it."

    def __call__(
        self, like: torch.Tensor, positions: torch.Tensor, length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [1, n, head_dim] of positions [1, n] in a sequence of `length` positions,
        in the dtype of `like`."""
        frequencies = self._frequencies(length) if self._static is None else self._static
        angles = positions[..., None].float() * frequencies
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos(), both.sin()
        if self._scaling != 1.0:
            cos, sin = cos * self._scaling, sin * self._scaling
        return cos.to(like.dtype), sin.to(like.dtype)

    def _frequencies(self, length: int) -> torch.Tensor:
        beyond = length > self._switch
        if (known := self._known.get(beyond)) is not None:
            return known
        # A tensor, as in transformers: dynamic scaling is computed in its float32.
        seq_len = torch.tensor(length) if beyond else None
        frequencies: torch.Tensor
        frequencies, _ = ROPE_INIT_FUNCTIONS[self._kind](
            self._config, self._device, seq_len=seq_len
        )
        if not beyond or self._kind == "longrope":
            self._known[beyond] = frequencies
        return frequencies
