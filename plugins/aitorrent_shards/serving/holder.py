"""A holder: one worker process with the layers of one model entry, and its directory record.

A worker loads in slices, so that it can report progress between them. The record is published only
once the layers are loaded, follows the free cache memory, and is withdrawn when the worker ends;
the worker is then restarted with backoff. Layers that are to leave memory are withdrawn at once,
and their worker ends when nobody uses them.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Literal

from aitorrent_shards.config import ModelEntry, ShardsConfig, parse_layers
from aitorrent_shards.models.folder import Digests, ModelFiles
from aitorrent_shards.protocol.spans import PREFIX, Span
from aitorrent_shards.serving.rest import Rest
from aitorrent_shards.serving.worker_words import (
    LOAD_SLICE_S,
    load_request,
    loaded_span,
    weight_bytes_of,
)
from aitorrentd.api import (
    AitorrentError,
    Conflict,
    Directory,
    Frame,
    InvalidParams,
    NotFound,
    PeerId,
    PluginContext,
    TimedOut,
    Unavailable,
    Worker,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.tasks import Tasks, beside

ENTRY: Final = "aitorrent_shards.worker.process:main"
REPUBLISH_S: Final = 1.0
CHANGE: Final = 0.1
BACKOFF_CAP_S: Final = 60.0
STABLE_S: Final = 60.0
_TOKENS_PER_TIMEOUT: Final = 32  # prefill of this many tokens takes at most one step's time

State = Literal[
    "starting", "loading", "ready", "failed", "restarting", "unloading", "unloaded", "stopped"
]


def allowed_s(step_timeout_s: float, n: int) -> float:
    """Time limit of a step over `n` positions; after it the worker counts as hung."""
    return step_timeout_s * max(1.0, n / _TOKENS_PER_TIMEOUT)


class Holder:
    """Layers of a model, computed by a worker process of this node."""

    def __init__(
        self,
        ctx: PluginContext,
        config: ShardsConfig,
        entry: ModelEntry,
        files: ModelFiles,
        *,
        node_id: PeerId,
        directory: Directory,
    ) -> None:
        wanted = parse_layers(entry.layers) or (0, files.layers)
        if wanted[1] > files.layers:
            raise InvalidParams(
                f"layers {entry.layers} of {entry.name}: the model has {files.layers} layers"
            )
        self.entry, self.files = entry, files
        self.start, self.end = wanted
        self.state: State = "starting"
        self.problem = ""
        self.restarts = 0
        self.loading_since: float | None = None
        self.weight_bytes = 0
        self.done_bytes = 0
        "Bytes of weights that the worker has read, while it loads."
        self.total_bytes = 0
        "Bytes to read in total; 0 until known."
        self.rss_bytes: int | None = None
        "The worker's resident memory when a session last opened or closed; None without a worker."
        self.vram_bytes = 0
        "The weights in the memory of a graphics card."
        self.span: Span | None = None
        self.resting_span: Span | None = None
        "The span that left memory, until it is back, or cannot be loaded."
        self.row_bytes = 0
        self.on_gone: Callable[[Holder, str], None] = lambda holder, reason: None
        self.on_loading: Callable[[], None] = lambda: None
        "Called when its worker starts to load."
        self._ctx, self._config = ctx, config
        self._node_id, self._directory = node_id, directory
        self._log: logging.Logger = ctx.log
        self._worker: Worker | None = None
        self._steps_us: deque[int] = deque(maxlen=64)
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self.rest = Rest(ctx.clock, self._begin_rest)

    def _enter(self, state: State, problem: str = "") -> None:
        self.state, self.problem = state, problem
        self._tell_moved()

    def _tell_moved(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    @property
    def pid(self) -> int | None:
        """The worker's process id, while one runs."""
        return self._worker.pid if self._worker else None

    @property
    def queue(self) -> int:
        """Requests that the worker has not answered yet."""
        return self._worker.unanswered if self._worker else 0

    @property
    def step_us(self) -> int:
        """Median microseconds of a single-token step; 0 before the first."""
        return int(statistics.median(self._steps_us)) if self._steps_us else 0

    async def run(self, digests: Digests) -> None:
        """Keep a worker loaded until cancelled, or until loading fails permanently; none while the
        layers rest."""
        name = f"shards-{self.entry.name}"
        try:
            while True:
                async with (
                    beside(self._hold(digests), f"{name}-hold") as holding,
                    beside(self.rest.begun(), f"{name}-rest") as resting,
                ):
                    await asyncio.wait({holding, resting}, return_when=asyncio.FIRST_COMPLETED)
                    if holding.done():
                        holding.result()
                        return
                    worker = self._worker
                    self._enter("unloading")
                if worker is not None:
                    await worker.close()
                self.weight_bytes = self.vram_bytes = 0
                self._log.info("%s left memory", self._title())
                self._enter("unloaded")
                await self.rest.over()
        finally:
            if self.state != "failed":
                self._enter("stopped")

    async def load(self) -> None:
        """Have the layers in memory; returns when they are.

        Raises:
            Unavailable: they cannot be loaded, or not now.
        """
        self.rest.come()
        self._stay()
        while self.state != "ready" or self.rest.is_resting:
            if self.state in ("failed", "restarting", "stopped"):
                raise Unavailable(f"{self._title()} cannot be loaded: {self.problem or self.state}")
            await self._moved.wait()

    async def unload(self) -> None:
        """Free the memory of the layers once nobody uses them; returns when it is free.

        Raises:
            Conflict: somebody had them loaded again meanwhile.
        """
        if self.state in ("failed", "stopped"):
            return
        self.rest.leave()
        self.advertise()
        if self.state == "ready":
            self._enter("unloading")
        while self.state not in ("unloaded", "failed", "stopped"):
            if not self.rest.is_leaving:
                raise Conflict(f"{self._title()} stay in memory: they were loaded again meanwhile")
            await self._moved.wait()

    def keep(self, idle_s: float | None) -> None:
        """Let the layers leave memory after so many seconds without use, or stay."""
        self.rest.keep(idle_s)
        self._stay()

    def _stay(self) -> None:
        if self.state == "unloading" and not self.rest.is_resting:
            self._enter("ready")
        self.advertise()

    def _begin_rest(self) -> None:
        self.resting_span = self.span or self.resting_span
        self._withdraw()

    async def _hold(self, digests: Digests) -> None:
        """Keep a worker loaded until loading fails permanently."""
        attempt = 0
        while True:
            started = self._ctx.clock.monotonic()
            try:
                reason = await self._serve(digests)
            except (InvalidParams, NotFound) as e:
                self.resting_span = None
                self._log.error("cannot load %s: %s", self._title(), e.message)
                self._enter("failed", e.message)
                return
            except AitorrentError as e:
                reason = e.message
            if self._ctx.clock.monotonic() - started > STABLE_S:
                attempt = 0
            self.restarts += 1
            self.resting_span = None
            self._enter("restarting", reason)
            pause_s = equal_jitter_s(attempt, cap_s=BACKOFF_CAP_S, draw=self._ctx.random.random())
            self._log.warning(
                "worker of %s ended (%s); restarting in %.1f s", self._title(), reason, pause_s
            )
            await asyncio.sleep(pause_s)
            attempt += 1

    def _title(self) -> str:
        return f"layers {self.start}-{self.end} of {self.entry.name}"

    async def _serve(self, digests: Digests) -> str:
        """Start, load, publish; returns why the worker ended."""
        self.loading_since = self._ctx.clock.monotonic()
        self._enter("loading", self.problem)
        self.on_loading()
        threads = str(self._config.threads)
        with self.rest.used():
            worker = await self._ctx.spawn_worker(
                ENTRY,
                name=f"shards-{self.entry.name}",
                env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        self._worker = worker
        try:
            with self.rest.used():
                self.span = self._loaded(await self._load(worker), digests)
                await self._refresh()
                self.resting_span, self.loading_since = None, None
                self._enter("ready")
            self._log.info("%s are ready, %s", self._title(), self.span.dtype)
            tasks = Tasks(self._log)
            tasks.spawn(self._follow(), f"shards-{self.entry.name}-follow")
            try:
                return await asyncio.shield(worker.closed)  # cancelling us must not cancel it
            finally:
                await tasks.close()
        finally:
            self._withdraw()
            self._worker, self.rss_bytes = None, None
            self.done_bytes = self.total_bytes = 0
            worker.kill()

    async def _load(self, worker: Worker) -> dict[str, Any]:
        """Make the worker load, slice by slice; returns its description of the layers."""
        deadline = self._ctx.clock.monotonic() + self._config.load_timeout_s
        request = load_request(self.entry, self.files, self._config, self.start, self.end)
        while True:
            left_s = deadline - self._ctx.clock.monotonic()
            if left_s <= 0:
                raise TimedOut(f"not loaded within {self._config.load_timeout_s:g} s")
            header = (await worker.request(request, timeout_s=left_s)).header
            if not header.get("loading"):
                return header
            done, total = header.get("done_bytes"), header.get("total_bytes")
            if type(done) is int and type(total) is int:
                self.done_bytes, self.total_bytes = done, total
            request = {"op": "loading", "slice_s": LOAD_SLICE_S}

    def _loaded(self, header: dict[str, Any], digests: Digests) -> Span:
        span = loaded_span(
            header,
            peer=self._node_id,
            model=self.entry.name,
            digests=digests,
            start=self.start,
            end=self.end,
        )
        self.weight_bytes, self.vram_bytes = weight_bytes_of(header)
        self.row_bytes = span.row_bytes
        return span

    def _withdraw(self) -> None:
        if self.span is None:
            return
        self._directory.withdraw(PREFIX + self.span.digest)
        self.span = None
        self.on_gone(self, f"the worker of {self._title()} ended")

    async def _follow(self) -> None:
        """Republish when the free memory changed significantly; at most once per REPUBLISH_S."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._refresh()
            except (TimedOut, Unavailable):
                return
            await asyncio.sleep(REPUBLISH_S)

    async def _refresh(self) -> None:
        stats = await self.request({"op": "stats"}, timeout_s=self._config.load_timeout_s)
        free, old = stats.header.get("free_positions"), self.span
        rss_bytes = stats.header.get("rss_bytes")
        self.rss_bytes = rss_bytes if type(rss_bytes) is int else None
        if old is None or type(free) is not int:
            return
        change = abs(free - old.free_positions) / max(free, old.free_positions, 1)
        first_measure = old.step_us == 0 and self.step_us > 0
        if self.state == "ready" and change < CHANGE and not first_measure:
            return
        self.span = replace(old, free_positions=max(free, 0), step_us=self.step_us)
        self.advertise()

    def advertise(self) -> None:
        """Update the directory record; it is withdrawn while the node drains, and before the layers
        leave memory."""
        if self.span is None:
            return
        if self._ctx.draining or self.rest.is_leaving:
            self._directory.withdraw(PREFIX + self.span.digest)
        else:
            self._directory.publish(PREFIX + self.span.digest, self.span.value())

    def changed(self) -> None:
        """A session opened or closed: the record may need an update."""
        self._changed.set()

    async def request(
        self, header: dict[str, Any], tail: bytes | memoryview = b"", *, timeout_s: float
    ) -> Frame:
        """One request to the worker; `timeout_s` starts once earlier requests are answered.

        Raises:
            Unavailable: no worker runs, or it ended. TimedOut: it hung and was killed. Other
            AitorrentErrors: as answered.
        """
        if self._worker is None:
            raise self._absent()
        return await self._worker.request(header, tail, timeout_s=timeout_s)

    def submit(
        self,
        header: dict[str, Any],
        tail: bytes | memoryview,
        done: Callable[[Frame | AitorrentError], None],
        *,
        timeout_s: float,
    ) -> None:
        """Like `request`, with a callback for the answer or the error; see `Worker.submit`.

        Raises:
            Unavailable: no worker runs.
        """
        if self._worker is None:
            raise self._absent()
        self._worker.submit(header, tail, done, timeout_s=timeout_s)

    def _absent(self) -> Unavailable:
        return Unavailable(f"{self._title()} are not loaded")

    def measured(self, took_us: object) -> None:
        """Record the compute time of a single-token step."""
        if type(took_us) is int and took_us >= 0:
            self._steps_us.append(took_us)
