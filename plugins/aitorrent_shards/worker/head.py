"""From the last hidden state to the sampler's input: logits and the top candidates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aitorrent_shards.worker.layer_range import LayerRange
from aitorrent_shards.worker.rows import RowHead
from aitorrentd.api import InvalidParams


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The likeliest next tokens, by (-logit, id)."""

    ids: NDArray[np.uint32]
    logits: NDArray[np.float32]
    lse: float
    "log(sum(exp(logit / temperature))) over the whole vocabulary."

    def tail(self) -> bytes:
        """Wire format: ids as u32, then logits as float32, little-endian."""
        return self.ids.astype("<u4").tobytes() + self.logits.astype("<f4").tobytes()


class Head:
    """The final norm and lm_head of a span that ends with the model's last layer."""

    def __init__(self, span: LayerRange) -> None:
        assert span.norm is not None and span.head is not None
        self._norm = span.norm
        self._head = span.head
        self._row = RowHead(span.norm, span.head) if span.fast_rows else None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 logits [vocab_size], on the CPU, of one hidden state [1, hidden_size]."""
        if self._row is not None:
            with np.errstate(all="ignore"):  # activations from peers are untrusted
                return torch.from_numpy(self._row(hidden[0].numpy()))
        logits: torch.Tensor = self._head(self._norm(hidden))[0].float().cpu()
        return logits


def pick_candidates(logits: torch.Tensor, k: int, temperature: float) -> TopTokens:
    """The `k` likeliest tokens (0 = all) of float32 `logits` [vocab_size].

    A temperature of 0 counts as 1 in `lse`. Ties in logits are ordered by id.

    Raises:
        InvalidParams: the logits are not finite numbers: damaged hidden states or weights.
    """
    lse = torch.logsumexp(logits.double() / (temperature or 1.0), 0).item()
    if not math.isfinite(lse):
        raise InvalidParams(
            "the logits of the last position are not finite numbers; the activations that came in"
            " or the weights are damaged, or they exceed the range of float16: use bfloat16 or"
            " float32 on every node"
        )
    if 0 < k < len(logits):
        smallest = torch.topk(logits, k, sorted=False).values.min()
        ids = torch.nonzero(logits >= smallest).squeeze(1)
    else:
        ids = torch.arange(len(logits))
    order = torch.sort(logits[ids], descending=True, stable=True).indices[: k or None]
    ids = ids[order]
    return TopTokens(ids.numpy().astype(np.uint32), logits[ids].numpy(), lse)
