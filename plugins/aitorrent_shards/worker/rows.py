"""Decoder layers for one row in float32 on one CPU thread: the hot path of decoding.

At batch size 1 a layer reads each weight once, so reading them determines the time. torch's linear
(MKL sgemv) reaches about two thirds of one core's read bandwidth here; numpy's vecdot, one BLAS dot
product for each row of the matrix, comes near the limit, needs no compiler and works on torch's
memory. The small steps in between use numpy too, which saves about fifty torch dispatches per
layer. Results differ from transformers' modules only by rounding (about 1e-6 relative).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaRMSNorm,
)
from transformers.models.mistral.modeling_mistral import (
    MistralAttention,
    MistralDecoderLayer,
    MistralMLP,
    MistralRMSNorm,
)
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2MLP,
    Qwen2RMSNorm,
)
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3DecoderLayer,
    Qwen3MLP,
    Qwen3RMSNorm,
)

from aitorrent_shards.worker.families import Anatomy
from aitorrent_shards.worker.kvcache import KvCache

Row = NDArray[np.float32]

_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP: Final = ("gate_proj", "up_proj", "down_proj")
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS: Final = ("q_norm", "k_norm")


_KNOWN: Final[
    Mapping[type[nn.Module], tuple[type[nn.Module], type[nn.Module], type[nn.Module]]]
] = {
    LlamaDecoderLayer: (LlamaAttention, LlamaMLP, LlamaRMSNorm),
    MistralDecoderLayer: (MistralAttention, MistralMLP, MistralRMSNorm),
    Qwen2DecoderLayer: (Qwen2Attention, Qwen2MLP, Qwen2RMSNorm),
    Qwen3DecoderLayer: (Qwen3Attention, Qwen3MLP, Qwen3RMSNorm),
}
"""Layers that `RowLayer` supports, with the classes of their attention, MLP and norms. Others may
use the same part names for a different computation: SmolLM3 does not rotate in every layer, Gemma's
norm adds 1 to its weight."""


def can_run_rows(layer: nn.Module, anatomy: Anatomy) -> bool:
    """Whether `RowLayer` supports `layer`, and this numpy has vecdot (2.0)."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    norms = [getattr(layer, name, None) for name in _NORMS]
    norms += [part for name in _HEAD_NORMS if (part := getattr(attention, name, None)) is not None]
    known = _KNOWN.get(type(layer))
    if known is None or (type(attention), type(mlp)) != known[:2]:
        return False
    if any(type(norm) is not known[2] for norm in norms):
        return False
    linear = [getattr(attention, name, None) for name in _PROJECTIONS]
    linear += [getattr(mlp, name, None) for name in _MLP]
    parts = {name for name, _ in layer.named_children()}
    return (
        hasattr(np, "vecdot")
        and anatomy.config.hidden_act == "silu"
        and anatomy.head_dim % 2 == 0
        and all(type(part) is nn.Linear for part in linear)
        and parts == {"self_attn", "mlp", *_NORMS}
    )


def _array(parameter: torch.Tensor | None) -> Row | None:
    return None if parameter is None else parameter.detach().numpy()


class _Linear:
    """weight @ x + bias, into `out` or a new array."""

    def __init__(self, linear: nn.Linear, out: Row | None) -> None:
        self.weight: Row = linear.weight.detach().numpy()
        self.bias = _array(linear.bias)
        self.out = out

    def __call__(self, x: Row) -> Row:
        out: Row = np.vecdot(self.weight, x, out=self.out)
        if self.bias is not None:
            out += self.bias
        return out


class _Norm:
    """Root mean square norm over the last axis; x may be [size] or [heads, size]."""

    def __init__(self, norm: Any) -> None:
        self.weight: Row = norm.weight.detach().numpy()
        self.eps = float(norm.variance_epsilon)
        self.size = len(self.weight)

    def __call__(self, x: Row) -> Row:
        mean_square = np.vecdot(x, x) / self.size
        normed: Row = x * (1 / np.sqrt(mean_square + self.eps))[..., None].astype(np.float32)
        normed *= self.weight
        return normed


class RowScratch:
    """Buffers shared by all layers of a span, since they run one after another."""

    def __init__(self, anatomy: Anatomy) -> None:
        a = anatomy
        queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
        self.qkv = np.empty(queries + 2 * keys, np.float32)
        self.q = self.qkv[:queries]
        self.k = self.qkv[queries : queries + keys]
        self.v = self.qkv[queries + keys :]
        self.hidden = np.empty(a.hidden_size, np.float32)
        self.gate = np.empty(a.config.intermediate_size, np.float32)
        self.gate_tensor = torch.from_numpy(self.gate)
        self.up = np.empty(a.config.intermediate_size, np.float32)


def rotation(cos: torch.Tensor, sin: torch.Tensor) -> tuple[Row, Row]:
    """The output of a transformers rotary module for one position, as [2, head_dim / 2] with the
    first half of sin negated."""
    halves = sin.numpy().reshape(2, -1).copy()
    np.negative(halves[0], out=halves[0])
    return cos.numpy().reshape(2, -1), halves


class RowLayer:
    """A Llama-style decoder layer for one row."""

    def __init__(self, layer: Any, anatomy: Anatomy, scratch: RowScratch) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.scratch = scratch
        self.groups = anatomy.heads // anatomy.kv_heads
        self.kv_heads = anatomy.kv_heads
        self.head_dim = anatomy.head_dim
        self.scaling = np.float32(attention.scaling)
        self.norm_in = _Norm(layer.input_layernorm)
        self.norm_mlp = _Norm(layer.post_attention_layernorm)
        self.norm_q = _Norm(attention.q_norm) if hasattr(attention, "q_norm") else None
        self.norm_k = _Norm(attention.k_norm) if hasattr(attention, "k_norm") else None
        self.to_q = _Linear(attention.q_proj, scratch.q)
        self.to_k = _Linear(attention.k_proj, scratch.k)
        self.to_v = _Linear(attention.v_proj, scratch.v)
        self.to_out = _Linear(attention.o_proj, scratch.hidden)
        self.gate = _Linear(mlp.gate_proj, scratch.gate)
        self.up = _Linear(mlp.up_proj, scratch.up)
        self.down = _Linear(mlp.down_proj, scratch.hidden)

    def __call__(self, x: Row, cos: Row, sin: Row, cache: KvCache, i: int) -> None:
        """Replace x [hidden_size], at position `cache.length`, with the layer's output.

        cos, sin: as `rotation` makes them; `i` is the layer's place in `cache`.
        """
        x += self._attend(self.norm_in(x), cos, sin, cache, i)
        h = self.norm_mlp(x)
        self.gate(h)
        functional.silu(self.scratch.gate_tensor, inplace=True)
        gated = np.multiply(self.scratch.gate, self.up(h), out=self.scratch.gate)
        x += self.down(gated)

    def _attend(self, h: Row, cos: Row, sin: Row, cache: KvCache, i: int) -> Row:
        scratch, d = self.scratch, self.head_dim
        q, k, v = self.to_q(h), self.to_k(h), self.to_v(h)
        if self.norm_q is not None and self.norm_k is not None:
            q[:] = self.norm_q(q.reshape(-1, d)).reshape(-1)
            k[:] = self.norm_k(k.reshape(-1, d)).reshape(-1)
        # Rotation maps the halves (a, b) of each head to (a cos - b sin, b cos + a sin); queries
        # and keys are adjacent in memory and rotate together.
        halves = scratch.qkv[: len(q) + len(k)].reshape(-1, 2, d // 2)
        turned = halves * cos + halves[:, ::-1] * sin
        queries = turned[: len(q) // d].reshape(self.kv_heads, self.groups, d)
        queries *= self.scaling
        keys, values = cache.arrays[i]
        at = cache.length
        keys[:, at] = turned[len(q) // d :].reshape(self.kv_heads, d)
        values[:, at] = v.reshape(self.kv_heads, d)
        start = cache.visible_from(cache.windows[i])
        # [kv_heads, positions, groups]: this order measured fastest for BLAS.
        scores = np.matmul(keys[:, start : at + 1], queries.transpose(0, 2, 1))
        weights = torch.softmax(torch.from_numpy(scores), dim=1).numpy()
        mixed = np.matmul(weights.transpose(0, 2, 1), values[:, start : at + 1])
        return self.to_out(mixed.reshape(-1))


class RowHead:
    """The final norm and lm_head for one row."""

    def __init__(self, norm: nn.Module, head: nn.Linear) -> None:
        self.norm = _Norm(norm)
        self.head = _Linear(head, None)

    def __call__(self, x: Row) -> Row:
        """Logits [vocab_size] of x [hidden_size]."""
        return self.head(self.norm(x))
