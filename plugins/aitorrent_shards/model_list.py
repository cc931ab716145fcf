"""The models of this node: those of the configuration, and those that commands added."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from aitorrent_shards.config import ModelEntry, ShardsConfig
from aitorrent_shards.fetching.added_models import AddedModels
from aitorrent_shards.fetching.manifest import Manifest
from aitorrent_shards.fetching.manifest_exchange import ToldModel, ask_holders
from aitorrent_shards.fetching.model_fetch import ModelFetch
from aitorrent_shards.fetching.sources import parse_source
from aitorrent_shards.models.checkpoint_files import INDEX_FILE
from aitorrent_shards.models.local_folder import local_model
from aitorrent_shards.protocol.spans import PREFIX
from aitorrent_shards.serving.local_model import LocalModel
from aitorrent_shards.serving.stage_server import StageServer
from aitorrentd.api import (
    TRANSPORT,
    Conflict,
    Directory,
    InvalidParams,
    NotFound,
    PluginContext,
)
from aitorrentd.api.models.weights import MODEL_NAMES, WEIGHTS
from aitorrentd.api.tasks import Tasks

FETCHED: Final = "models"
"Folder in the plugin's data directory with a folder for each fetched model."
ADDED: Final = "added.json"
READABLE: Final = 0o750
"Workers run as another user, in the daemon's group."
FIND_S: Final = 10.0


class ModelList:
    """Models by name, each with the task that fetches, reads and holds it."""

    def __init__(self, ctx: PluginContext, stage_server: StageServer, directory: Directory) -> None:
        self.by_name: dict[str, LocalModel] = {}
        self.on_loading: Callable[[], None] = lambda: None
        "Called when the fetch, the reading or the loading of a model starts."
        self._ctx = ctx
        self._config: ShardsConfig = ctx.config
        self._stage_server = stage_server
        self._directory = directory
        self._saved = AddedModels(ctx.data_dir / ADDED, ctx.log)
        self._fetched: Path = ctx.data_dir / FETCHED
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tasks: Tasks | None = None
        self._configured = {entry.name for entry in self._config.models}
        for entry in self._config.models:
            self._enter(entry)

    @property
    def problem(self) -> str:
        """Why models that commands added are missing; else empty."""
        return self._saved.problem

    async def start(self, tasks: Tasks) -> None:
        """Run all models in `tasks`."""
        self._tasks = tasks
        for entry in await asyncio.to_thread(self._saved.load):
            if entry.name not in self.by_name:  # the configuration wins
                self._enter(entry)
        if any(model.entry.source for model in self.by_name.values()):
            await asyncio.to_thread(self._make_readable)
        for model in self.by_name.values():
            self._run(model)

    async def add(self, entry: ModelEntry) -> LocalModel:
        """Add a model with a source or a path, and keep it for later starts.

        Raises:
            Conflict: the name is taken. InvalidParams: neither. NotFound, Denied, InvalidParams:
            no usable model lies at the path. Unavailable: it cannot be saved.
        """
        if entry.source is None and entry.path is None:
            raise InvalidParams("a model that is added needs a source, or a path on this machine")
        self._check_free(entry.name)
        if entry.path is not None:
            found = await asyncio.to_thread(local_model, entry.path, entry.layers)
            entry = entry.model_copy(update={"path": found})
            self._check_free(entry.name)
        model = self._enter(entry)
        try:
            await asyncio.to_thread(self._make_readable)
            await asyncio.to_thread(self._saved.save, self._added())
        except BaseException:
            del self.by_name[entry.name]
            raise
        self._run(model)
        return model

    async def remove(self, name: str) -> LocalModel:
        """Stop a model that a command added, and forget it; its weights stay with seeding.

        Raises:
            NotFound: no such model. InvalidParams: it is in the configuration.
        """
        self.named(name)
        if name in self._configured:
            raise InvalidParams(
                f"model {name} is in the configuration; remove it from plugins.shards.models there"
            )
        model = self.by_name.pop(name)
        await asyncio.to_thread(self._saved.save, self._added())
        if (task := self._running.pop(name, None)) is not None:
            task.cancel()
            await asyncio.wait({task})
        if model.entry.source is None:
            return model  # its folder is somebody else's
        if all(other.folder != model.folder for other in self.by_name.values()):
            if model.fetch is not None:
                await model.fetch.forget()
            await asyncio.to_thread(shutil.rmtree, model.folder, ignore_errors=True)
        return model

    def _check_free(self, name: str) -> None:
        if name in self.by_name:
            raise Conflict(
                f"there is a model {name} already; remove it first, or choose another name"
            )

    def named(self, name: str) -> LocalModel:
        """The model of this name.

        Raises:
            NotFound: no such model.
        """
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none"
            raise NotFound(f"there is no model {name}; this node has: {known}")
        return self.by_name[name]

    def is_added(self, name: str) -> bool:
        """Whether a command added this model."""
        return name in self.by_name and name not in self._configured

    def told(self, digest: str) -> ToldModel | None:
        """What peers are told about a model that this node knows by its digest."""
        for model in self.by_name.values():
            if model.digests is None or model.digests.digest != digest or model.manifest is None:
                continue
            if model.fetch is None and not self._is_shared(model.manifest):
                continue
            try:
                index = (model.folder / INDEX_FILE).read_bytes()
            except OSError:
                index = b""
            return ToldModel(model.manifest, index)
        return None

    def _is_shared(self, manifest: Manifest) -> bool:
        """Whether this node seeds these files, so that peers may learn their names."""
        weights = self._ctx.optional(WEIGHTS)
        return weights is not None and all(
            weights.local(f.sha256) is not None for f in manifest.files
        )

    def _added(self) -> list[ModelEntry]:
        return [m.entry for m in self.by_name.values() if m.entry.name not in self._configured]

    def _enter(self, entry: ModelEntry) -> LocalModel:
        model = LocalModel(entry, entry.folder(self._fetched))
        model.on_loading = lambda: self.on_loading()
        if entry.source is not None:
            model.fetch = self._fetch_of(entry, model.folder)
        self.by_name[entry.name] = model
        return model

    def _fetch_of(self, entry: ModelEntry, folder: Path) -> ModelFetch:
        return ModelFetch(
            folder,
            parse_source(entry.source or ""),
            entry.layers,
            weights=lambda: self._ctx.service(WEIGHTS),
            names=lambda: self._ctx.service(MODEL_NAMES),
            ask_peers=self._ask_peers,
            log=self._ctx.log,
        )

    async def _ask_peers(self, digest: str) -> ToldModel:
        holders = await self._directory.find(PREFIX + digest, timeout_s=FIND_S)
        return await ask_holders(self._ctx.service(TRANSPORT), holders, digest)

    def _make_readable(self) -> None:
        self._fetched.mkdir(parents=True, exist_ok=True)
        for path in (self._ctx.data_dir, self._fetched):
            path.chmod(READABLE)

    def _run(self, model: LocalModel) -> None:
        if self._tasks is None:
            return  # `start` runs it
        work = model.run(
            self._ctx,
            self._config,
            self._stage_server,
            node_id=self._ctx.service(TRANSPORT).node_id,
            directory=self._directory,
        )
        name = model.entry.name
        self._running[name] = self._tasks.spawn(work, f"shards-{name}")

    def __iter__(self) -> Iterator[LocalModel]:
        return iter(list(self.by_name.values()))
