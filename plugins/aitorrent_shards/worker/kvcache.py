"""The attention keys and values of one session, and the budget that all sessions share.

Room is reserved when a session opens, so an admitted session never runs out of it. The kernel
allocates the memory page by page as positions are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aitorrentd.api import Busy


class KvBudget:
    """Tracks reserved bytes against a fixed budget."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.used_bytes = 0

    @property
    def free_bytes(self) -> int:
        """Unreserved bytes."""
        return self.total_bytes - self.used_bytes

    def reserve(self, positions: int, bytes_per_position: int) -> int:
        """Reserve room for `positions`; returns the bytes to pass to `release`.

        Raises:
            Busy: it does not fit; data has `free_positions` for this size.
        """
        needed = positions * bytes_per_position
        if needed > self.free_bytes:
            free = self.free_bytes // bytes_per_position
            raise Busy(
                f"{positions} positions requested; {free} are free",
                free_positions=free,
            )
        self.used_bytes += needed
        return needed

    def release(self, reserved: int) -> None:
        """Release the bytes that `reserve` returned."""
        self.used_bytes -= reserved


class KvCache:
    """Keys and values of consecutive layers for positions 0 to `length` - 1.

    Stands in for a transformers Cache: attention modules call `update`. Its tensors are
    [1, kv_heads, max_positions, head_dim], model dtype.
    """

    def __init__(
        self,
        first_layer: int,
        windows: Sequence[int | None],
        *,
        kv_heads: int,
        head_dim: int,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
        prompt_positions: int = 0,
    ) -> None:
        """`windows` has one entry for each layer from `first_layer` on, as in Anatomy.

        `prompt_positions` is the length of the whole prompt, which may arrive in pieces; 0 if
        unknown.
        """
        shape = (1, kv_heads, max_positions, head_dim)
        self.first_layer = first_layer
        self.windows = tuple(windows)
        self.max_positions = max_positions
        self.prompt_positions = prompt_positions
        self.length = 0
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in windows]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in windows]

    @cached_property
    def arrays(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The keys and values of each layer [kv_heads, max_positions, head_dim], as numpy views of
        the same memory; only for float32 on a CPU."""
        pairs = zip(self.keys, self.values, strict=True)
        return [(keys[0].numpy(), values[0].numpy()) for keys, values in pairs]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a layer's new keys and values; returns all those its queries may attend to.

        keys, values: [1, kv_heads, n, head_dim], for positions `length` to `length` + n - 1.
        `length` itself advances once every layer is done.
        """
        i = layer_idx - self.first_layer
        end = self.length + keys.shape[2]
        self.keys[i][:, :, self.length : end] = keys
        self.values[i][:, :, self.length : end] = values
        start = self.visible_from(self.windows[i])
        return self.keys[i][:, :, start:end], self.values[i][:, :, start:end]

    def sequence_length(self, end: int) -> int:
        """The known length of the sequence that contains the positions before `end`.

        The whole prompt counts, starting with its first piece.
        """
        return max(end, self.prompt_positions)

    def visible_from(self, window: int | None) -> int:
        """The first position within `window` of the query at position `length`."""
        return 0 if window is None else max(0, self.length - window + 1)

    def trim(self, length: int) -> None:
        """Truncate to `length` positions; a no-op if there are no more."""
        self.length = min(self.length, length)
