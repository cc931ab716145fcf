"""A callable range of a model's layers: hidden states in, hidden states out.

The decoder layers, the embedding, the norm and the rotary embedding are transformers' own modules,
filled from byte ranges of the checkpoint. Masks equal those that transformers builds for SDPA (none
where the kernel's own causal masking suffices). They are built here because transformers' helpers
change signature between releases; the parity tests compare the results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import nn

from aitorrent_shards.worker.families import Anatomy, Skeleton, build_skeleton
from aitorrent_shards.worker.kvcache import KvCache
from aitorrent_shards.worker.rotary import Rotary
from aitorrent_shards.worker.rows import Row, RowLayer, RowScratch, can_run_rows, rotation
from aitorrent_shards.worker.weights import Checkpoint
from aitorrentd.api import InvalidParams

_EMBED: Final = "model.embed_tokens"
_NORM: Final = "model.norm"
_HEAD: Final = "lm_head"

_UNNEEDED: Final = re.compile(r"(^|\.)rotary_emb\.|\.[qkv]_scale$")
"""Tensors that old releases saved and that are computed instead, and the scales of a quantised KV
cache, which this one is not."""
_COMPARED_ROWS: Final = 4
_TOLERANCE: Final = 1e-3
"Relative to the largest value. Rounding stays far below it, a different computation exceeds it."
ROWS_AT_ONCE: Final = 1024


class LayerRange:
    """Layers [start, end) of a model, in memory once `load` has finished.

    `embed` is set if start is 0, `norm` and `head` if end is the number of layers.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        start: int,
        end: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        fast_rows: bool = True,
    ) -> None:
        """Build the modules, without weights.

        `fast_rows`: compute single rows with the module `rows` where possible, which is fastest on
        one thread; else with transformers' modules.

        Raises:
            InvalidParams: the range is not inside the model.
        """
        if not 0 <= start < end <= anatomy.layers:
            raise InvalidParams(
                f"layers {start} to {end} are not a range of this model, which has"
                f" {anatomy.layers} layers"
            )
        self.anatomy = anatomy
        self.start = start
        self.end = end
        self.dtype = dtype
        self.device = device
        self.weight_bytes = 0
        self.wanted_bytes = 0
        "Bytes of its tensors in the checkpoint, once `load` has started."
        self.done_bytes = 0
        "How many of those bytes were read."
        self._skeleton: Skeleton | None = (skeleton := build_skeleton(anatomy, dtype))
        self.layers = list(skeleton.layers[start:end])
        self.rotary = Rotary(skeleton.rotary, anatomy, device)
        self.embed: nn.Embedding | None = None
        self.norm: nn.Module | None = None
        self.head: nn.Linear | None = None
        self._rows: list[RowLayer] | None = None
        self._wants_rows = fast_rows
        self.rows_at_once = ROWS_AT_ONCE
        "Longer inputs are processed in pieces of this many rows, which bounds activation memory."

    def load(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Read the weights; yields after each tensor, so that the caller can report progress.

        Raises:
            InvalidParams: the checkpoint does not match. NotFound: one of its files is missing.
            Busy: not enough memory.
        """
        skeleton, self._skeleton = self._skeleton, None
        if skeleton is None:
            raise InvalidParams("these layers were loaded before")
        parts: list[tuple[nn.Module, str]] = [
            (layer, f"model.layers.{i}") for i, layer in enumerate(self.layers, self.start)
        ]
        if self.start == 0:
            self.embed = skeleton.embed
            parts.append((self.embed, self._embed_name(checkpoint)))
        if self.end == self.anatomy.layers:
            self.norm, self.head = skeleton.norm, skeleton.head
            parts.append((self.norm, _NORM))
            if (name := self._head_name(checkpoint)) is not None:
                parts.append((self.head, name))
        wanted = (f"{prefix}.{n}" for module, prefix in parts for n, _ in module.named_parameters())
        self.wanted_bytes = sum(place.size_bytes for n in wanted if (place := checkpoint.find(n)))
        for module, prefix in parts:
            self._refuse_unused(module, prefix, checkpoint)
        for module, prefix in parts:
            yield from self._fill(module, prefix, checkpoint)
        if self.head is not None and self.embed is not None and self.head.weight.is_meta:
            self.head.weight = self.embed.weight
        self._check_computes()
        self._rows = self._row_layers() if self._wants_rows else None

    @property
    def fast_rows(self) -> bool:
        """Whether single rows are computed by `aitorrent_shards.worker.rows`."""
        return self._rows is not None

    def _embed_name(self, checkpoint: Checkpoint) -> str:
        """The name of the embedding's weights; with tied weights, either may be saved."""
        only_head = checkpoint.find(f"{_EMBED}.weight") is None
        is_there = only_head and checkpoint.find(f"{_HEAD}.weight") is not None
        return _HEAD if self.anatomy.tied and is_there else _EMBED

    def _head_name(self, checkpoint: Checkpoint) -> str | None:
        """The name of the head's weights; None if the loaded embedding serves as the head."""
        # As in transformers: a checkpoint's own lm_head wins, even if the config ties it.
        if not self.anatomy.tied:
            return _HEAD
        if checkpoint.find(f"{_HEAD}.weight") is not None:
            is_shared = self.embed is not None and self._embed_name(checkpoint) == _HEAD
            return None if is_shared else _HEAD
        return _EMBED if self.embed is None else None

    def _fill(self, module: nn.Module, prefix: str, checkpoint: Checkpoint) -> Iterator[None]:
        """Load the parameters of `module` from the tensors under `prefix`."""
        for name, meta in list(module.named_parameters()):
            full = f"{prefix}.{name}"
            weight = checkpoint.load(full, tuple(meta.shape), self.dtype, self.device)
            owner, _, leaf = name.rpartition(".")
            parameter = nn.Parameter(weight, requires_grad=False)
            setattr(module.get_submodule(owner), leaf, parameter)
            self.weight_bytes += weight.nbytes
            place = checkpoint.find(full)
            self.done_bytes += place.size_bytes if place else 0
            yield
        for name, state in module.named_buffers():
            if state.is_meta:
                raise InvalidParams(f"{prefix}.{name} is state that no checkpoint holds")

    def _refuse_unused(self, module: nn.Module, prefix: str, checkpoint: Checkpoint) -> None:
        """Refuse weights that these modules would leave out, such as biases that config.json does
        not mention: the model was trained with them."""
        expected = {name for name, _ in module.named_parameters()}
        unused = [
            name for name in checkpoint.others(prefix, expected) if not _UNNEEDED.search(name)
        ]
        if unused:
            raise InvalidParams(
                f"a {self.anatomy.family} model as described by config.json has no tensor"
                f" {prefix}.{unused[0]}, which the checkpoint holds; without it the answers would"
                " be wrong. Does config.json lack a setting, such as attention_bias or mlp_bias?"
            )

    def _check_computes(self) -> None:
        """Raise InvalidParams if the settings do not fit together, which shows only in use."""
        hidden = torch.zeros(1, self.anatomy.hidden_size, dtype=self.dtype, device=self.device)
        try:
            with torch.inference_mode():
                self.run(hidden, self.new_cache(self.start, self.start + 1, 1))
        except RuntimeError as e:
            raise InvalidParams(
                f"the layers cannot be computed as config.json describes them: {str(e)[:200]}"
            ) from None

    def _row_layers(self) -> list[RowLayer] | None:
        if self.device.type != "cpu" or self.dtype != torch.float32:
            return None
        if not all(can_run_rows(layer, self.anatomy) for layer in self.layers):
            return None
        scratch = RowScratch(self.anatomy)
        rows = [RowLayer(layer, self.anatomy, scratch) for layer in self.layers]
        return rows if self._rows_agree(rows) else None

    def _rows_agree(self, rows: list[RowLayer]) -> bool:
        """Whether row layers match transformers' modules at a position that follows others.

        One layer per window is compared: a transformers release may change the computation of a
        class without renaming it.
        """
        first_of_its_kind = {self.anatomy.windows[self.start + i]: i for i in range(len(rows))}
        draw = torch.Generator().manual_seed(0)
        hidden = torch.randn(_COMPARED_ROWS, self.anatomy.hidden_size, generator=draw)
        for i in first_of_its_kind.values():
            at = self.start + i
            by_modules, by_rows = (self.new_cache(at, at + 1, _COMPARED_ROWS) for _ in range(2))
            with torch.inference_mode():
                expected = self.run(hidden, by_modules)[-1]
                self.run(hidden[:-1], by_rows)
                found = torch.from_numpy(
                    self._run_rows(rows[i : i + 1], hidden[-1].numpy().copy(), by_rows)
                )
            if not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max():
                return False
        return True

    def new_cache(
        self, start: int, end: int, max_positions: int, *, prompt_positions: int = 0
    ) -> KvCache:
        """An empty cache for layers [start, end), which must be within this span."""
        return KvCache(
            start,
            self.anatomy.windows[start:end],
            kv_heads=self.anatomy.kv_heads,
            head_dim=self.anatomy.head_dim,
            max_positions=max_positions,
            prompt_positions=prompt_positions,
            dtype=self.dtype,
            device=self.device,
        )

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states [n, hidden_size] of token ids [n].

        Raises:
            InvalidParams: this span does not start at layer 0.
        """
        if self.embed is None:
            raise InvalidParams(f"layers {self.start} to {self.end} take no token ids")
        hidden: torch.Tensor = self.embed(ids)
        return hidden

    def run(self, hidden: torch.Tensor, cache: KvCache) -> torch.Tensor:
        """Hidden states [n, hidden_size] after the layers that `cache` covers.

        Row i of the input is position `cache.length` + i; the cache advances by n. On failure the
        cache is unchanged.
        """
        before = cache.length
        length = cache.sequence_length(before + len(hidden))
        try:
            pieces = []
            for rows in torch.split(hidden, self.rows_at_once):
                pieces.append(self._run_piece(rows.unsqueeze(0), cache, length).squeeze(0))
                cache.length += len(rows)
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        except BaseException:
            cache.trim(before)
            raise

    def run_row(self, x: Row, cache: KvCache) -> Row:
        """Like `run` for one row x [hidden_size], which it overwrites; requires `fast_rows`."""
        assert self._rows is not None
        first = cache.first_layer - self.start
        return self._run_rows(self._rows[first:], x, cache)

    def _run_rows(self, layers: list[RowLayer], x: Row, cache: KvCache) -> Row:
        position = torch.tensor([[cache.length]])
        like = torch.from_numpy(x)  # sets the dtype and device of the angles
        length = cache.sequence_length(cache.length + 1)
        cos, sin = rotation(*self.rotary(like, position, length))
        with np.errstate(all="ignore"):  # inputs from peers are untrusted
            for i in range(len(cache.windows)):
                layers[i](x, cos, sin, cache, i)
        cache.length += 1
        return x

    def _run_piece(self, hidden: torch.Tensor, cache: KvCache, length: int) -> torch.Tensor:
        n = hidden.shape[1]
        positions = torch.arange(cache.length, cache.length + n, device=self.device).unsqueeze(0)
        rotary = self.rotary(hidden, positions, length)
        masks = {window: self._mask(n, cache, window) for window in set(cache.windows)}
        first = cache.first_layer - self.start
        for i, window in enumerate(cache.windows):
            hidden = self.layers[first + i](
                hidden,
                attention_mask=masks[window],
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
        return hidden

    def _mask(self, n: int, cache: KvCache, window: int | None) -> torch.Tensor | None:
        """Which positions n new rows may attend to: bool [1, 1, n, visible]; None = SDPA's own
        masking."""
        start, end = cache.visible_from(window), cache.length + n
        narrow = window is not None and end - start >= window
        if n == 1 or (cache.length == 0 and not narrow):
            return None
        rows = torch.arange(cache.length, end, device=self.device).unsqueeze(1)
        columns = torch.arange(start, end, device=self.device).unsqueeze(0)
        mask = columns <= rows
        if window is not None:
            mask &= columns > rows - window
        return mask[None, None]
