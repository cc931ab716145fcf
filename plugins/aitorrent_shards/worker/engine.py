"""A loaded layer range and its sessions: the torch side of the worker, without the wire format."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import transformers

from aitorrent_shards.worker.families import pick_dtype, read_anatomy
from aitorrent_shards.worker.head import Head, TopTokens, pick_candidates
from aitorrent_shards.worker.kvcache import KvBudget, KvCache
from aitorrent_shards.worker.layer_range import LayerRange
from aitorrent_shards.worker.rows import Row
from aitorrent_shards.worker.weights import Checkpoint
from aitorrentd.api import Busy, Conflict, InvalidParams, NotFound, Unavailable

MAX_SESSIONS: Final = 256
"Bounds session memory besides the caches: the last logits, up to 600 kB each."

_DEVICE: Final = re.compile(r"cpu|auto|cuda(:\d{1,2})?")


@dataclass(slots=True)
class KvSession:
    """One answer's state in this worker."""

    start: int
    end: int
    cache: KvCache
    reserved_bytes: int
    last_hidden: torch.Tensor | None = None
    "[1, hidden_size] of the newest position, in a session that includes the last layer."
    logits: torch.Tensor | None = None
    "float32 [vocab_size] of the newest position, once requested."


class Step(NamedTuple):
    """The result of a step: candidates if requested, hidden states if more layers follow."""

    candidates: TopTokens | None
    hidden: torch.Tensor | Row | None
    "[n, hidden_size], or [hidden_size] for a single row."
    took_s: float

    def tail(self) -> memoryview:
        """The hidden states in row order."""
        assert self.hidden is not None
        if isinstance(self.hidden, np.ndarray):
            return self.hidden.data
        try:
            rows = self.hidden.numpy()
        except TypeError:  # bfloat16, which numpy lacks, or not in CPU memory
            rows = self.hidden.cpu().contiguous().view(torch.uint8).numpy()
        return np.ascontiguousarray(rows).data.cast("B")


def pick_device(name: str) -> torch.device:
    """The device called `name`: cpu, cuda, cuda:N, or auto (a GPU if available).

    Raises:
        InvalidParams: no such name. Unavailable: no such GPU.
    """
    if not _DEVICE.fullmatch(name):
        raise InvalidParams(f"device {name[:40]!r} is not cpu, cuda, cuda:N or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unavailable(f"{name} is not available; set the device to cpu or auto")
    return device


def _float_dtype(path: Path) -> torch.dtype:
    with Checkpoint(path) as checkpoint:
        return checkpoint.float_dtype()


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Engine:
    """Layers [start, end) of a model in memory, and the sessions that use them."""

    def __init__(
        self,
        path: Path,
        start: int,
        end: int,
        *,
        dtype: str,
        device: str,
        threads: int,
        kv_budget_bytes: int,
    ) -> None:
        """Build the layers; `load` reads their weights.

        Raises:
            NotFound: no config.json. Unavailable: no such GPU. InvalidParams: whatever else is
            wrong with the configuration or with the arguments.
        """
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # can be set only once, before its first use
            torch.set_num_interop_threads(1)
        transformers.logging.set_verbosity_error()
        chosen_device = pick_device(device)
        anatomy = read_anatomy(path)
        self.span = LayerRange(
            anatomy,
            start,
            end,
            dtype=pick_dtype(dtype, anatomy, lambda: _float_dtype(path)),
            device=chosen_device,
            # vecdot runs on one thread; torch's linear is faster with several.
            fast_rows=threads == 1,
        )
        self.read_bytes = 0
        self.anatomy = anatomy
        self._path = path
        self.budget = KvBudget(kv_budget_bytes)
        self.sessions: dict[bytes, KvSession] = {}
        self.steps = 0
        self._head: Head | None = None
        self._bytes_per_position = anatomy.kv_bytes_per_position(self.span.dtype)

    def load(self) -> Iterator[None]:
        """Read the weights; yields after each tensor. The engine is usable once this finishes.

        Raises:
            NotFound: no weights. Busy: not enough memory. InvalidParams: whatever else is wrong
            with the checkpoint.
        """
        with Checkpoint(self._path) as checkpoint:
            for _ in self.span.load(checkpoint):
                self.read_bytes = checkpoint.read_bytes
                yield
        if self.span.end == self.anatomy.layers:
            self._head = Head(self.span)

    def describe(self) -> dict[str, Any]:
        """A description of what was loaded; the answer to `load`."""
        return {
            "layers": self.anatomy.layers,
            "start": self.span.start,
            "end": self.span.end,
            "hidden_size": self.anatomy.hidden_size,
            "vocab_size": self.anatomy.vocab_size,
            "dtype": str(self.span.dtype).removeprefix("torch."),
            "max_positions": self.anatomy.max_positions,
            "weight_bytes": self.span.weight_bytes,
            "read_bytes": self.read_bytes,
            "family": self.anatomy.family,
            "kv_bytes_per_position": self._bytes_per_position,
            "device": str(self.span.device),
        }

    def open(
        self, ident: bytes, start: int, end: int, max_positions: int, *, prompt_positions: int = 0
    ) -> None:
        """Admit a session that uses layers [start, end) and at most `max_positions` positions, of
        which the prompt takes `prompt_positions`.

        Raises:
            Conflict: it is open already. Busy: no room. InvalidParams: no such range here, or more
            positions than the model supports.
        """
        if ident in self.sessions:
            raise Conflict(f"session {ident.hex()} is open already")
        if not self.span.start <= start < end <= self.span.end:
            raise InvalidParams(
                f"layers {start} to {end} are not loaded here; {self.span.start} to"
                f" {self.span.end} are"
            )
        if max_positions > self.anatomy.max_positions:
            raise InvalidParams(
                f"{max_positions} positions exceed the model's context of"
                f" {self.anatomy.max_positions}",
                max_positions=self.anatomy.max_positions,
            )
        if len(self.sessions) >= MAX_SESSIONS:
            raise Busy(f"{MAX_SESSIONS} sessions are open", free_positions=0)
        reserved = self.budget.reserve(max_positions, (end - start) * self._bytes_per_position)
        try:
            cache = self.span.new_cache(
                start, end, max_positions, prompt_positions=prompt_positions
            )
        except RuntimeError:  # raised by torch when out of memory
            self.budget.release(reserved)
            raise Busy(f"no memory for {max_positions} positions", free_positions=0) from None
        self.sessions[ident] = KvSession(start, end, cache, reserved)

    def session(self, ident: bytes) -> KvSession:
        """The open session.

        Raises:
            NotFound: no session with that name.
        """
        session = self.sessions.get(ident)
        if session is None:
            raise NotFound(f"session {ident.hex()} is not open")
        return session

    def step(
        self, ident: bytes, pos: int, n: int, tail: memoryview, want: tuple[int, float] | None
    ) -> Step:
        """Run `n` new positions, starting at `pos`, through the session's layers.

        `tail` holds n u32 token ids in a session that starts at layer 0, else n * hidden_size
        values of the span's dtype. `want` = (k, temperature) requests candidates after the last
        position; it is ignored before the last layer.

        Raises:
            NotFound: no such session. Conflict: `pos` is not its length (given in data["have"]).
            InvalidParams: a bad tail, or more positions than the session was opened for.
        """
        session = self.session(ident)
        cache = session.cache
        if pos != cache.length:
            raise Conflict(f"position {pos} was sent, {cache.length} is next", have=cache.length)
        if pos + n > cache.max_positions:
            raise InvalidParams(
                f"positions {pos} to {pos + n} exceed the {cache.max_positions} that the session"
                " was opened for"
            )
        begun = time.perf_counter()
        hidden: torch.Tensor | Row | None
        candidates = None
        with torch.inference_mode():
            hidden = self._run(session, n, tail)
            if session.end == self.anatomy.layers:
                rows = torch.from_numpy(hidden) if isinstance(hidden, np.ndarray) else hidden
                session.last_hidden = rows.view(n, -1)[-1:].clone()
                session.logits = hidden = None
                if want is not None:
                    candidates = self._candidates(session, *want)
        self.steps += 1
        return Step(candidates, hidden, time.perf_counter() - begun)

    def _run(self, session: KvSession, n: int, tail: memoryview) -> torch.Tensor | Row:
        """Run the input through the session's layers: [n, hidden_size], or [hidden_size] for a
        single row, which stays in numpy where possible."""
        if n > 1 or not self.span.fast_rows:
            return self.span.run(self._input(session, n, tail), session.cache)
        if session.start == 0:
            row: Row = self._input(session, n, tail)[0].numpy()
        else:
            self._check_size(session, n, tail)
            row = np.frombuffer(tail, np.float32)
        return self.span.run_row(row.copy(), session.cache)

    def _input(self, session: KvSession, n: int, tail: memoryview) -> torch.Tensor:
        from_ids = session.start == 0
        dtype = torch.uint32 if from_ids else self.span.dtype
        self._check_size(session, n, tail)
        # The copy is writable, as torch requires, and aligned.
        values = torch.frombuffer(bytearray(tail), dtype=dtype)
        if not from_ids:
            return values.view(n, self.anatomy.hidden_size).to(self.span.device)
        ids = values.to(torch.int64)
        largest = int(ids.max())
        if largest >= self.anatomy.vocab_size:
            raise InvalidParams(
                f"token id {largest} is not in the vocabulary of {self.anatomy.vocab_size}"
            )
        return self.span.embed_tokens(ids.to(self.span.device))

    def _check_size(self, session: KvSession, n: int, tail: memoryview) -> None:
        if session.start == 0:
            what, size = "token ids", 4 * n
        else:
            width, dtype = self.anatomy.hidden_size, self.span.dtype
            what, size = f"rows of {width} {dtype} values", n * width * dtype.itemsize
        if len(tail) != size:
            raise InvalidParams(f"{n} {what} are {size} bytes, not {len(tail)}")

    def _candidates(self, session: KvSession, k: int, temperature: float) -> TopTokens:
        if self._head is None or session.last_hidden is None:
            raise Conflict("this session has no newest position to choose after")
        if session.logits is None:
            session.logits = self._head.logits(session.last_hidden)
        return pick_candidates(session.logits, k, temperature)

    def candidates(self, ident: bytes, k: int, temperature: float) -> tuple[int, TopTokens]:
        """The session's length, and the `k` likeliest next tokens (0 = all).

        Raises:
            NotFound: no such session. Conflict: it does not include the model's last layer, or has
            no position yet.
        """
        session = self.session(ident)
        with torch.inference_mode():
            return session.cache.length, self._candidates(session, k, temperature)

    def close(self, ident: bytes) -> None:
        """End a session and free its room; a no-op if there is none."""
        session = self.sessions.pop(ident, None)
        if session is not None:
            self.budget.release(session.reserved_bytes)

    def statistics(self) -> dict[str, int]:
        """Statistics for operators; `free_positions` applies to all loaded layers together."""
        per_position = self._bytes_per_position * (self.span.end - self.span.start)
        return {
            "sessions": len(self.sessions),
            "kv_used_bytes": self.budget.used_bytes,
            "kv_budget_bytes": self.budget.total_bytes,
            "free_positions": self.budget.free_bytes // per_position,
            "rss_bytes": _rss_bytes(),
            "steps": self.steps,
        }
