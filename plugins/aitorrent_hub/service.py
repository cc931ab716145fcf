"""The hub service: what runs, and what it is made of."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from aitorrent_hub.config import PORT, HubConfig
from aitorrent_hub.files.describing import Describing
from aitorrent_hub.files.memory import MIGRATIONS, Memory
from aitorrent_hub.files.sources import Sources
from aitorrent_hub.files.store import MIGRATION, Store
from aitorrent_hub.mirror.app import Mirror
from aitorrent_hub.mirror.documents import DocumentAnswers
from aitorrent_hub.mirror.files import FileAnswers
from aitorrent_hub.upstream.asking import Hub
from aitorrentd.api import PluginContext, Unavailable
from aitorrentd.api.faces.serving import WebLimits, listen, serve_when_asked
from aitorrentd.api.models.weights import TORRENT_INDEXES, WEIGHTS
from aitorrentd.api.network.addresses import host_port
from aitorrentd.api.tasks import Tasks

LIMITS: Final = WebLimits(body_bytes=512 * 2**20, body_s=600.0, stalled_s=120.0)
"Commits to the Hub carry small files in their bodies."


class HubService:
    """The parts of a running plugin."""

    def __init__(self, ctx: PluginContext) -> None:
        self.config: HubConfig = ctx.config
        self._ctx = ctx
        self._tasks = Tasks(ctx.tasks)
        self.hub = Hub(self.config.upstream)
        self.listening: list[str] = []
        "Addresses of the mirror: `127.0.0.1:8042`."
        self.problem = ""
        "Why the mirror does not listen; empty if it does."
        self.memory: Memory
        self.store: Store
        self.sources: Sources
        self.describing: Describing
        self.mirror: Mirror

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs.

        Raises:
            Unavailable: the configured port is taken, or an address is not of this machine.
        """
        ctx, config = self._ctx, self.config
        async with AsyncExitStack() as stack:
            db = await stack.enter_async_context(ctx.db({**MIGRATIONS, 2: MIGRATION}))
            stack.push_async_callback(self.hub.close)
            stack.push_async_callback(self._tasks.close)
            self.memory = Memory(db)
            self.store = Store(ctx.cache_dir / "files", db, self._tasks, ctx.log, most=config.cache)
            self.sources = Sources(
                self.store,
                lambda: ctx.optional(WEIGHTS),
                lambda: ctx.optional(TORRENT_INDEXES) or (),
                ctx.log,
                swarm_min=config.swarm_min,
                seed=config.seed,
                origin=config.upstream,
            )
            self.store.when_whole = self.sources.offer
            self.store.before_deleting = self.sources.forget
            self.describing = Describing(self.hub, self.memory, wall=ctx.clock.time)
            self.mirror = Mirror(
                self.hub,
                FileAnswers(self.hub, self.describing, self.sources),
                DocumentAnswers(self.hub, self.memory),
                config.hosts,
            )
            self._tasks.spawn(self.store.sweep(), "hub: sweep")
            sockets = self._listen()
            self.listening = [host_port(*sock.getsockname()[:2]) for sock in sockets]
            serving_tasks = Tasks(ctx.tasks)
            if sockets:
                ctx.log.info("mirror of %s on %s", config.upstream, ", ".join(self.listening))
                serving_tasks.spawn(
                    serve_when_asked(
                        lambda: self.mirror, sockets, log=ctx.log, limits=replace(LIMITS)
                    ),
                    "hub: mirror",
                )
            try:
                yield
            finally:
                await serving_tasks.close(LIMITS.drain_s * 2)
                for sock in sockets:
                    sock.close()

    def _listen(self) -> list[socket.socket]:
        port = PORT if self.config.port is None else self.config.port
        try:
            return listen(self.config.listen, port, setting="plugins.hub.port")
        except Unavailable as e:
            if self.config.port is not None:
                raise
            self.problem = e.message
            return []
