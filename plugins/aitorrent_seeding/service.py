"""The seeding service: a session of libtorrent that starts when it is first needed.

A node that shares nothing pays nothing: libtorrent is neither imported nor listening.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.crediting.claims import Claims
from aitorrent_seeding.library.store import MIGRATIONS, Store
from aitorrent_seeding.metrics import SwarmMetrics
from aitorrent_seeding.sources.asking import PeerIndex
from aitorrent_seeding.sources.directory import DirectoryIndex
from aitorrent_seeding.sources.nearby import Nearby
from aitorrent_seeding.torrents.hashing import stamp_of
from aitorrentd.api import (
    DIRECTORY,
    TRANSPORT,
    Denied,
    PluginContext,
    Registry,
    SkipPlugin,
    Unavailable,
)
from aitorrentd.api.models.weights import (
    MODEL_NAMES,
    TORRENT_INDEXES,
    WEIGHTS,
    Fetch,
    ModelNames,
    Published,
    Span,
    TorrentIndex,
    WantedFile,
)
from aitorrentd.api.monitoring.metrics import Metric
from aitorrentd.api.tasks import Tasks

if TYPE_CHECKING:
    from aitorrent_seeding.crediting.crediting import Crediting
    from aitorrent_seeding.library.library import Library
    from aitorrent_seeding.library.shelf import Shelf
    from aitorrent_seeding.session.links import Link

CLOSE_S: Final = 20.0
"Saving the state of many downloads takes a while on a slow disk."
NEARBY: Final = "peers"
"The name of the index that needs no tracker."
_READABLE: Final = 0o750
"Workers, which load weights from there, run as another user in the daemon's group."


class SeedingService:
    """Provides `WEIGHTS`, and owns the session."""

    def __init__(self, ctx: PluginContext) -> None:
        self.ctx = ctx
        self.config: SeedingConfig = ctx.config
        self._metrics = SwarmMetrics()
        self.indexes: Registry[TorrentIndex] = Registry("torrent source")
        self.names: Registry[ModelNames] = Registry("model name scheme")
        self.running_library: Library | None = None
        "The library, if the session runs."
        self._crediting: Crediting | None = None
        self._tasks = Tasks(ctx.tasks)
        self._store: Store | None = None
        transport = ctx.service(TRANSPORT)
        directory = DirectoryIndex(ctx.service(DIRECTORY), transport)
        self.peers = PeerIndex(transport, self._shares, lambda: directory.port, ctx.clock)
        self.claims = Claims(transport, self._links_of, ctx.clock)
        self._nearby = Nearby(directory, self.peers)
        self._started: asyncio.Future[Library] | None = None

    def _shares(self) -> Shelf | None:
        return self.running_library.shelf if self.running_library else None

    async def _links_of(self, info_hash: str) -> Sequence[Link]:
        shelf, crediting = self._shares(), self._crediting
        entry = shelf.get(info_hash) if shelf else None
        return await crediting.links_of(entry) if crediting and entry else ()

    @property
    def directory(self) -> Path:
        """Where fetched files are kept."""
        return self.config.directory or self.ctx.data_dir / "files"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        if self.ctx.service(TRANSPORT).is_masking:
            raise SkipPlugin(
                "the transport disguises its connections, which BitTorrent cannot; set"
                " plugins.transport.masking to false to share weights"
            )
        async with self.ctx.db(MIGRATIONS) as db:
            self._store = Store(db)
            await self._store.load()
            try:
                with self.indexes.added(NEARBY, self._nearby):
                    self.ctx.provide(TORRENT_INDEXES, self.indexes)
                    self.ctx.provide(MODEL_NAMES, self.names)
                    self.ctx.provide(WEIGHTS, self)
                    if self._store.held:
                        self._start()
                    yield
            finally:
                self._store = None
                await self._tasks.close(CLOSE_S)

    # Weights

    async def fetch(self, file: WantedFile, *, ranges: Sequence[Span] | None = None) -> Fetch:
        """See `Weights`."""
        return await (await self.library()).fetch(file, ranges=ranges)

    def local(self, sha256: str) -> Path | None:
        """See `Weights`."""
        held = self._store.of_file(sha256) if self._store else None
        return held.path if held is not None and held.is_still(stamp_of(held.path)) else None

    async def offer(
        self, path: Path, *, sha256: str = "", published: Published | None = None
    ) -> str:
        """See `Weights`."""
        library = await self.library()
        return (await library.offer(path, sha256=sha256, published=published)).held.sha256

    async def withdraw(self, sha256: str) -> None:
        """See `Weights`."""
        await (await self.library()).withdraw(sha256)

    # The session

    def measured(self) -> Iterator[Metric]:
        """The metrics now."""
        return self._metrics.read(self._shares() or ())

    async def library(self) -> Library:
        """The library; starts the session if need be.

        Raises:
            Denied: the directory for files cannot be written.
        """
        return await asyncio.shield(self._start())

    def _start(self) -> asyncio.Future[Library]:
        if self._store is None:
            raise Unavailable("the seeding plugin is stopping")
        if self._started is None or (self._started.done() and self._started.exception()):
            self._started = asyncio.get_running_loop().create_future()
            self._tasks.spawn(self._run(self._started, self._store), "seeding: session")
        return self._started

    async def _run(self, started: asyncio.Future[Library], store: Store) -> None:
        from aitorrent_seeding.crediting.crediting import Crediting
        from aitorrent_seeding.library.library import Library
        from aitorrent_seeding.library.means import Means
        from aitorrent_seeding.session.engine import Engine
        from aitorrent_seeding.session.settings import session_settings
        from aitorrent_seeding.sources.web import http_session

        directory = self.directory
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            if self.config.directory is None:
                for path in (self.ctx.data_dir, directory):
                    path.chmod(_READABLE)
        except OSError as e:
            text = f"cannot write to {directory}: {e.strerror}; set plugins.seeding.directory"
            started.set_exception(Denied(text))
            return
        settings = session_settings(self.config)
        async with http_session() as http, Engine.running(settings, self.ctx.log) as engine:
            engine.on_moved = self._metrics.moved
            if engine.port:
                self.ctx.log.info("BitTorrent peers are accepted on port %d", engine.port)
            else:
                self.ctx.log.warning("no BitTorrent peer can connect: %s", engine.listen_problem)
            self._nearby.directory.port = engine.port
            tasks = Tasks(self.ctx.tasks)
            means = Means(
                self.ctx,
                self.config,
                engine,
                store,
                http,
                self.indexes,
                self._nearby,
                directory,
                tasks,
            )
            library = self.running_library = Library(means)
            transport = self.ctx.service(TRANSPORT)
            crediting = Crediting(self.ctx, engine, transport, self.claims, tasks)
            self._crediting = crediting
            try:
                tasks.spawn(crediting.watch(library.shelf.of_torrent), "seeding: credit transfers")
                tasks.spawn(library.shelf.restore(), "seeding: restore")
                tasks.spawn(library.go_on(), "seeding: go on")
                tasks.spawn(library.shelf.keep_saving(), "seeding: save")
                tasks.spawn(means.room.watch(), "seeding: room on the disk")
                started.set_result(library)
                await asyncio.Event().wait()
            finally:
                self.running_library = self._crediting = None
                await crediting.close()
                await library.close()
                await tasks.close()
