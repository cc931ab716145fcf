"""A configured model on this node: files, tokenizer, digests, and the holder of its layers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aitorrent_shards.config import ModelEntry, ShardsConfig, parse_layers
from aitorrent_shards.fetching.manifest import Manifest, manifest_of
from aitorrent_shards.fetching.model_fetch import ModelFetch
from aitorrent_shards.models.folder import Digests, ModelFiles, hash_model
from aitorrent_shards.models.local_folder import read_local
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.serving.holder import Holder
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import (
    AitorrentError,
    Cancelled,
    Denied,
    Directory,
    InvalidParams,
    PeerId,
    PluginContext,
    Unavailable,
)
from aitorrentd.api.backoff import equal_jitter_s

if TYPE_CHECKING:  # at run time it comes with the first model: it takes 6 MiB
    from aitorrent_shards.models.tokenizer import ModelTokenizer

NO_LAYERS: Final = "none"
FETCH_CAP_S: Final = 60.0
"The longest pause between two attempts to fetch a model."


class LocalModel:
    """What this node knows of a model once it has inspected the folder."""

    def __init__(self, entry: ModelEntry, folder: Path, fetch: ModelFetch | None = None) -> None:
        """`fetch` brings the files into `folder` first."""
        self.entry = entry
        self.folder = folder
        self.fetch = fetch
        self.manifest: Manifest | None = None
        "Its files with their digests: what was fetched, or lies in the folder."
        self.files: ModelFiles | None = None
        self.tokenizer: ModelTokenizer | None = None
        self.digests: Digests | None = None
        self.holder: Holder | None = None
        self.problem = ""
        self.refused: AitorrentError | None = None
        "Why the latest attempt to fetch it failed; None once one succeeded."
        self.failed_attempts = 0
        "Attempts in a row that failed and brought no byte of weights."
        self.hashed_bytes = 0
        "Progress of reading the files for their digest."
        self.on_loading: Callable[[], None] = lambda: None
        "Called when reading or loading of the model starts."
        self._ended = False
        self._failed = False
        "For good: a fetch that may still succeed only has a problem."

    @property
    def state(self) -> str:
        """`fetching`, `reading`, `failed`, `ready` (for a model without layers here), else the
        holder's state."""
        if self.fetch is not None and self.manifest is None and not self._failed:
            return "fetching"
        if self.problem:
            return "failed"
        if self.holder is not None:
            return self.holder.state
        return "ready" if self.digests is not None else "reading"

    @property
    def progress(self) -> float | None:
        """Share of the bytes that were fetched or read so far, while that goes on."""
        if self.digests is not None or (self.files is None and self.state != "fetching"):
            return None
        done, total = self.amount
        return min(done / max(total, 1), 1.0)

    @property
    def is_unknown(self) -> bool:
        """Whether its source never said which files it has."""
        return self.fetch is not None and not self.fetch.is_known

    @property
    def amount(self) -> tuple[int, int]:
        """Bytes fetched or read so far, and in total, before a worker loads them; 0 if unknown."""
        if self.state == "fetching" and self.fetch is not None:
            return self.fetch.progress
        total = self.files.size_bytes if self.files else 0
        return min(self.hashed_bytes, total), total

    async def run(
        self,
        ctx: PluginContext,
        config: ShardsConfig,
        stage_server: StageServer,
        *,
        node_id: PeerId,
        directory: Directory,
    ) -> None:
        """Fetch and read the model, then hold its layers until cancelled; problems show in
        `state`."""
        try:
            await self._run(ctx, config, stage_server, node_id=node_id, directory=directory)
        finally:
            if self.fetch is not None:
                self.fetch.release()

    async def _run(
        self,
        ctx: PluginContext,
        config: ShardsConfig,
        stage_server: StageServer,
        *,
        node_id: PeerId,
        directory: Directory,
    ) -> None:
        self.on_loading()
        try:
            if self.fetch is not None:
                await self._bring(self.fetch, ctx)
            await self._read(ctx.cache_dir)
            files, digests = self.ready()
            if self.entry.layers == NO_LAYERS:
                return
            if not digests.digest:
                raise InvalidParams(f"{files.path} has no *.safetensors; set layers to none")
            if digests.digest in stage_server.holders:
                raise InvalidParams(f"{self.entry.name} has the same files as another model")
            self.holder = Holder(
                ctx, config, self.entry, files, node_id=node_id, directory=directory
            )
        except AitorrentError as e:
            self.problem, self._failed = e.message, True
            ctx.log.warning("model %s cannot be used: %s", self.entry.name, e.message)
            return
        self.holder.on_gone = stage_server.holder_gone
        self.holder.on_loading = self.on_loading
        stage_server.holders[digests.digest] = self.holder
        try:
            await self.holder.run(digests)
        finally:
            del stage_server.holders[digests.digest]

    async def _bring(self, fetch: ModelFetch, ctx: PluginContext) -> None:
        """Fetch the files, however often that fails for reasons that may pass."""
        attempt, before = 0, 0
        while True:
            try:
                self.manifest = await fetch.run()
                self.problem, self.refused = "", None
                return
            except (InvalidParams, Denied):
                raise
            except AitorrentError as e:
                pause_s = equal_jitter_s(attempt, cap_s=FETCH_CAP_S, draw=ctx.random.random())
                if not self.problem:
                    ctx.log.warning("cannot fetch model %s now: %s", self.entry.name, e.message)
                done, _ = fetch.progress
                self.failed_attempts = 1 if done > before else self.failed_attempts + 1
                self.problem, self.refused = f"{e.message}; trying again", e
                before = max(before, done)
            fetch.release()
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _read(self, cache_dir: Path) -> None:
        entry = self.entry
        self.files = files = await asyncio.to_thread(read_local, self.folder)
        self.tokenizer = await asyncio.to_thread(_tokenizer, files, entry.name)
        # one cache file per folder, so that models hashed concurrently do not overwrite
        name = hashlib.sha256(str(files.path).encode()).hexdigest()[:16]
        cache = cache_dir / f"digests-{name}.json"
        try:
            proven = {f.name: f.sha256 for f in self.manifest.files} if self.manifest else None
            digests = await asyncio.to_thread(hash_model, files, cache, self._advance, proven)
        except asyncio.CancelledError:
            self._ended = True
            raise
        if entry.digest and digests.digest and digests.digest != entry.digest:
            raise InvalidParams(
                f"the files in {files.path} have digest {digests.digest}, not {entry.digest}"
            )
        if self.fetch is None:
            self.manifest = await asyncio.to_thread(manifest_of, self.folder, digests.files)
        self.digests = digests

    def _advance(self, n: int) -> None:
        """Called by the hashing thread; the only way to cancel it."""
        if self._ended:
            raise Cancelled("the plugin stops")
        self.hashed_bytes += n

    def wanted(self) -> tuple[int, int]:
        """The layers that this node is to hold; (0, 0) if none, or while unknown."""
        if self.entry.layers == NO_LAYERS or self.files is None:
            return 0, 0
        return parse_layers(self.entry.layers) or (0, self.files.layers)

    def ready(self) -> tuple[ModelFiles, Digests]:
        """The model's files and digests.

        Raises:
            Unavailable: still being read, or reading failed.
        """
        if self.files is None or self.digests is None:
            share = f" ({self.progress:.0%})" if self.progress else ""
            raise Unavailable(
                f"model {self.entry.name} cannot be used: {self.problem}"
                if self.problem
                else f"model {self.entry.name} is still being {self.doing}{share}; try again soon"
            )
        return self.files, self.digests

    @property
    def doing(self) -> str:
        """What is done with its files before a worker loads them."""
        return "fetched" if self.state == "fetching" else "read"

    @property
    def trouble(self) -> str:
        """Why its files are still not fetched, in brackets; empty while that gets on."""
        return f" ({self.problem})" if self.problem and self.state == "fetching" else ""

    def accepts(self, span: Span) -> bool:
        """Whether a stage belongs to exactly this model.

        With local weights or a configured digest, the digest must match; else name, configuration
        and tokenizer must.
        """
        if self.digests is None:
            return False
        exact = self.digests.digest or self.entry.digest
        if exact:
            return span.digest == exact
        return span.model == self.entry.name and span.front == self.digests.front


def _tokenizer(files: ModelFiles, name: str) -> ModelTokenizer:
    """Read the tokenizer; blocking."""
    from aitorrent_shards.models.tokenizer import ModelTokenizer

    return ModelTokenizer(files, model=name)
