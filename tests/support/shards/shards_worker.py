"""Drives shard workers in tests: handlers in this process, and chains of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from aitorrent_shards.worker.process import ShardWorker
from aitorrentd.wire import Frame

_names = itertools.count()


class Choice(NamedTuple):
    """Candidates from an answer."""

    ids: list[int]
    logits: list[float]
    lse: float


def parse_choice(header: dict[str, Any], tail: Any) -> Choice:
    """The candidates in the answer to `step` or `candidates`."""
    raw, k = bytes(tail), header["k"]
    assert len(raw) == 8 * k
    ids = np.frombuffer(raw, "<u4", k).tolist()
    return Choice(ids, np.frombuffer(raw, "<f4", k, 4 * k).tolist(), header["lse"])


def load_worker(path: Path, start: int, end: int, **changes: Any) -> ShardWorker:
    """A worker in this process with layers [start, end); `changes` are fields of load."""
    worker = ShardWorker()
    worker(Frame(load_request(path, start, end, **changes)))
    return worker


def load_request(path: Path, start: int, end: int, **changes: Any) -> dict[str, Any]:
    """The header of a load request."""
    request = {
        "op": "load",
        "path": str(path),
        "start": start,
        "end": end,
        "dtype": "float32",
        "kv_budget_bytes": 1 << 28,
        "threads": 1,
        "device": "cpu",
    }
    return {**request, **changes}


def ask(
    worker: ShardWorker, op: str, tail: bytes = b"", **fields: Any
) -> tuple[dict[str, Any], Any]:
    """One request."""
    return worker(Frame({"op": op, **fields}, tail))


def token_tail(ids: Sequence[int]) -> bytes:
    """Token ids as a step's tail."""
    return np.asarray(ids, "<u4").tobytes()


class Chain:
    """A session across workers that hold consecutive layers. `cuts` are the boundaries between
    them."""

    def __init__(
        self,
        workers: Sequence[ShardWorker],
        cuts: Sequence[int],
        max_positions: int = 400,
        prompt: int = 0,
    ) -> None:
        self.workers = list(workers)
        self.session = f"session {next(_names)}".encode()
        self.length = 0
        for worker, start, end in zip(workers, cuts, cuts[1:], strict=False):
            fields: dict[str, Any] = {"start": start, "end": end, "max_positions": max_positions}
            ask(worker, "open", session=self.session, prompt=prompt, **fields)

    def feed(self, ids: Sequence[int], *, k: int = 1, temperature: float = 0.0) -> Choice:
        """Run new tokens through all stages; returns the candidates after the last one."""
        tail: Any = token_tail(ids)
        header: dict[str, Any] = {}
        for worker in self.workers:
            want = {"k": k, "temperature": temperature} if worker is self.workers[-1] else None
            fields = {"session": self.session, "pos": self.length, "n": len(ids), "want": want}
            header, tail = ask(worker, "step", bytes(tail), **fields)
        self.length += len(ids)
        return parse_choice(header, tail)

    def generate(self, prompt: Sequence[int], count: int, *, chunk: int = 10_000) -> list[int]:
        """Greedy tokens after `prompt`, which is fed in chunks."""
        for at in range(0, len(prompt), chunk):
            choice = self.feed(prompt[at : at + chunk])
        tokens = [choice.ids[0]]
        while len(tokens) < count:
            tokens.append(self.feed(tokens[-1:]).ids[0])
        return tokens

    def close(self) -> None:
        """End the session in all stages."""
        for worker in self.workers:
            ask(worker, "close", session=self.session)


@functools.lru_cache(maxsize=4)
def reference_model(path: Path) -> Any:
    """The whole model as transformers loads it, in float32."""
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for parameter in model.parameters():
        # Weights mapped from the file are unaligned, which makes BLAS round in another order.
        parameter.data = parameter.data.clone()
    model.eval()
    return model


def reference_tokens(path: Path, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy tokens from transformers' generate(), which continues past an end token."""
    model = reference_model(path)
    model.generation_config.eos_token_id = None
    ids = torch.tensor([list(prompt)])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


def random_prompt(length: int, vocab: int = 320, seed: int = 7) -> list[int]:
    """Token ids, the same for the same arguments."""
    draw = np.random.default_rng(seed + length)
    return [int(token) for token in draw.integers(0, vocab, length)]
