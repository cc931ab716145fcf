"""The worker process that holds a layer range: handles load, loading, open, step, candidates, close
and stats.

Runs under `aitorrentd.workers.worker` as `aitorrent_shards.worker.process:main`. The daemon
forwards data from peers, so every field is checked before use. `load` imports torch; until then the
worker is small.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aitorrent_shards.protocol.messages import MIN_TEMPERATURE
from aitorrent_shards.worker.lean import engine_class
from aitorrentd.api import Conflict, Frame, InvalidParams, MethodNotFound, ProtocolError
from aitorrentd.api.fields import blob, number, text, whole, whole_or

if TYPE_CHECKING:
    from aitorrent_shards.worker.engine import Engine
    from aitorrent_shards.worker.head import TopTokens

Answer = tuple[dict[str, Any], Any]

_ENVIRONMENT: Final[Mapping[str, str]] = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # numpy runs on one thread; its BLAS would start one per core in addition to torch's.
    "OPENBLAS_NUM_THREADS": "1",
}

_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_MMAP_FROM_BYTES: Final = 32 * 1024 * 1024  # the largest value that glibc accepts
_KEEP_FREE_BYTES: Final = 128 * 1024 * 1024

_MAX_TEXT_CHARS: Final = 4096
_MAX_POSITIONS: Final = 1 << 24
_MAX_VOCAB: Final = 1 << 22


def _text(header: Mapping[str, Any], name: str) -> str:
    value = text(header, name, _MAX_TEXT_CHARS)
    if "\0" in value:
        raise ProtocolError(f"{name} must not contain a NUL character")
    return value


def _session(header: Mapping[str, Any]) -> bytes:
    return blob(header, "session", 1, 64)


def _wanted(header: Mapping[str, Any]) -> tuple[int, float]:
    """k (0 = all) and temperature, which is optional."""
    k = whole(header, "k", 0, _MAX_VOCAB)
    if header.get("temperature") is None:
        return k, 0.0
    temperature = number(header, "temperature", 0, 1e6)
    if 0 < temperature < MIN_TEMPERATURE:
        raise InvalidParams(f"temperature must be 0 or from {MIN_TEMPERATURE} to 1e6")
    return k, temperature


def _chosen(pos: int, n: int, found: TopTokens) -> Answer:
    return {"pos": pos, "n": n, "k": len(found.ids), "lse": found.lse}, found.tail()


class ShardWorker:
    """Answers the frames of one daemon; see each method for fields and answer."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._unfinished: tuple[Engine, Iterator[None]] | None = None
        "The engine being loaded, and the iterator that continues it."
        self._operations: dict[str, Callable[[dict[str, Any], memoryview], Answer]] = {
            "load": self._load,
            "loading": self._go_on,
            "open": self._open,
            "step": self._step,
            "candidates": self._candidates,
            "close": self._close,
            "stats": self._stats,
        }

    def __call__(self, request: Frame) -> Answer:
        """The answer to a request, whose header names its operation in `op`.

        Raises:
            AitorrentError: passed to the caller.
        """
        name = request.header.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            known = ", ".join(self._operations)
            raise MethodNotFound(
                f"no worker operation {str(name)[:40]!r}; known operations: {known}"
            )
        try:
            return operation(request.header, memoryview(request.tail))
        except ProtocolError as e:
            raise InvalidParams(e.message) from None

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise Conflict("this worker has not loaded a model yet")
        return self._engine

    def _load(self, header: dict[str, Any], _tail: memoryview) -> Answer:
        """{path, start, end, dtype, kv_budget_bytes, threads, device, slice_s}: as Engine.describe.

        With `slice_s` the answer comes after about that many seconds at most, as {loading: true,
        done_bytes, total_bytes} if there is more to read. `loading` then continues.
        """
        if self._engine is not None or self._unfinished is not None:
            raise Conflict("this worker already holds layers; start another one")
        engine = engine_class()(
            Path(_text(header, "path")),
            whole(header, "start", 0, 1 << 16),
            whole(header, "end", 0, 1 << 16),
            dtype=_text(header, "dtype"),
            device=_text(header, "device"),
            threads=whole(header, "threads", 1, 1024),
            kv_budget_bytes=whole(header, "kv_budget_bytes", 0, 1 << 60),
        )
        self._unfinished = engine, engine.load()
        return self._go_on(header, _tail)

    def _go_on(self, header: dict[str, Any], _tail: memoryview) -> Answer:
        """{slice_s}: as load, which must precede it."""
        if self._unfinished is None:
            raise Conflict("nothing is loading in this worker")
        engine, steps = self._unfinished
        slice_s = header.get("slice_s")
        until = time.monotonic() + slice_s if isinstance(slice_s, int | float) else None
        self._unfinished = None  # a failed load does not continue
        for _ in steps:
            if until is not None and time.monotonic() >= until:
                self._unfinished = engine, steps
                done, total = engine.span.done_bytes, engine.span.wanted_bytes
                return {"loading": True, "done_bytes": done, "total_bytes": total}, b""
        self._engine = engine
        return engine.describe(), b""

    def _open(self, header: dict[str, Any], _tail: memoryview) -> Answer:
        """{session, start, end, max_positions}: {}. `prompt` may give the length of the whole
        prompt, which may arrive in pieces."""
        self._loaded().open(
            _session(header),
            whole(header, "start", 0, 1 << 16),
            whole(header, "end", 0, 1 << 16),
            whole(header, "max_positions", 1, _MAX_POSITIONS),
            prompt_positions=whole_or(header, "prompt", 0, 0, _MAX_POSITIONS),
        )
        return {}, b""

    def _step(self, header: dict[str, Any], tail: memoryview) -> Answer:
        """{session, pos, n, want: null | {k, temperature}} and the input as tail: {pos, n, took_us}
        and the hidden states, or with {k, lse} the candidates after the last position."""
        want = header.get("want")
        if want is not None and not isinstance(want, dict):
            raise InvalidParams("want must be null or a map")
        pos = whole(header, "pos", 0, _MAX_POSITIONS)
        n = whole(header, "n", 1, _MAX_POSITIONS)
        step = self._loaded().step(
            _session(header), pos, n, tail, None if want is None else _wanted(want)
        )
        answer: dict[str, Any] = {"pos": pos, "n": n}
        result: Any = b""
        if step.candidates is not None:
            answer, result = _chosen(pos, n, step.candidates)
        elif step.hidden is not None:
            result = step.tail()
        answer["took_us"] = round(step.took_s * 1e6)
        return answer, result

    def _candidates(self, header: dict[str, Any], _tail: memoryview) -> Answer:
        """{session, k, temperature}: as a step that requests them, for the newest position."""
        length, found = self._loaded().candidates(_session(header), *_wanted(header))
        return _chosen(length - 1, 1, found)

    def _close(self, header: dict[str, Any], _tail: memoryview) -> Answer:
        """{session}: {}, whether it was open or not."""
        self._loaded().close(_session(header))
        return {}, b""

    def _stats(self, _header: dict[str, Any], _tail: memoryview) -> Answer:
        """{}: as Engine.statistics."""
        return self._loaded().statistics(), b""


def _tune_malloc() -> None:
    """Keep freed memory for the next step: returning each layer's activations to the kernel and
    allocating them again costs prefill about 5 %."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE_BYTES)


def main() -> ShardWorker:
    """The worker's handler. Call it before importing torch or numpy."""
    os.environ.update(_ENVIRONMENT)
    _tune_malloc()
    return ShardWorker()
