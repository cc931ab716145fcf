"""A configured model on this node: files, tokenizer, digests, and the holder of its layers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aitorrent_shards.config import ModelEntry, ShardsConfig, parse_layers
from aitorrent_shards.models.folder import Digests, ModelFiles, hash_model, read_model
from aitorrent_shards.models.tokenizer import ModelTokenizer
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.serving.holder import Holder
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import (
    AitorrentError,
    Cancelled,
    Directory,
    InvalidParams,
    PeerId,
    PluginContext,
    Unavailable,
)

NO_LAYERS: Final = "none"


class LocalModel:
    """What this node knows of a model once it has inspected the folder."""

    def __init__(self, entry: ModelEntry) -> None:
        self.entry = entry
        self.files: ModelFiles | None = None
        self.tokenizer: ModelTokenizer | None = None
        self.digests: Digests | None = None
        self.holder: Holder | None = None
        self.problem = ""
        self.hashed_bytes = 0
        "Progress of reading the files for their digest."
        self.on_loading: Callable[[], None] = lambda: None
        "Called when reading or loading of the model starts."
        self._ended = False

    @property
    def state(self) -> str:
        """`reading`, `failed`, `ready` (for a model without layers here), else the holder's
        state."""
        if self.problem:
            return "failed"
        if self.holder is not None:
            return self.holder.state
        return "ready" if self.digests is not None else "reading"

    @property
    def progress(self) -> float | None:
        """Share of the files read so far, while they are being read."""
        if self.files is None or self.digests is not None:
            return None
        return min(self.hashed_bytes / max(self.files.size_bytes, 1), 1.0)

    async def run(
        self,
        ctx: PluginContext,
        config: ShardsConfig,
        stage_server: StageServer,
        *,
        node_id: PeerId,
        directory: Directory,
    ) -> None:
        """Read the model, then hold its layers until cancelled; problems show in `state`."""
        self.on_loading()
        try:
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
            self.problem = e.message
            ctx.log.warning("model %s cannot be used: %s", self.entry.name, e.message)
            return
        self.holder.on_gone = stage_server.holder_gone
        self.holder.on_loading = self.on_loading
        stage_server.holders[digests.digest] = self.holder
        try:
            await self.holder.run(digests)
        finally:
            del stage_server.holders[digests.digest]

    async def _read(self, cache_dir: Path) -> None:
        entry = self.entry
        self.files = files = await asyncio.to_thread(read_model, entry.folder)
        self.tokenizer = await asyncio.to_thread(ModelTokenizer, files, model=entry.name)
        # one cache file per folder, so that models hashed concurrently do not overwrite
        name = hashlib.sha256(str(files.path).encode()).hexdigest()[:16]
        cache = cache_dir / f"digests-{name}.json"
        try:
            digests = await asyncio.to_thread(hash_model, files, cache, self._advance)
        except asyncio.CancelledError:
            self._ended = True
            raise
        if entry.digest and digests.digest and digests.digest != entry.digest:
            raise InvalidParams(
                f"the files in {files.path} have digest {digests.digest}, not {entry.digest}"
            )
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
                else f"model {self.entry.name} is still being read{share}; try again soon"
            )
        return self.files, self.digests

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
