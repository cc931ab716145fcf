"""Puts the plugin together: models, stages, coordinator and backend of one node."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aitorrent_shards.backend import ShardsBackend
from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.coordinator import Coordinator
from aitorrent_shards.local import LocalModel
from aitorrent_shards.spans import PREFIX, Span, parse_spans, with_own
from aitorrent_shards.stage import StageHost
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    TRANSPORT,
    Draining,
    HealthWarning,
    PluginContext,
)


class ShardsService:
    """All that runs in the plugin."""

    def __init__(self, ctx: PluginContext) -> None:
        config: ShardsConfig = ctx.config
        self._ctx, self._config = ctx, config
        transport = ctx.service(TRANSPORT)
        self.directory = ctx.service(DIRECTORY)
        self.node_id = transport.node_id
        self.host = StageHost(transport, config, ctx.log, work=lambda: ctx.work("session"))
        self.models = {entry.name: LocalModel(entry) for entry in config.models}
        coordinator = Coordinator(
            transport=transport,
            directory=self.directory,
            host=self.host,
            config=config,
            clock=ctx.clock,
            log=ctx.log,
            publish=ctx.publish,
        )
        self.backend = ShardsBackend(
            self.models,
            coordinator,
            config,
            ctx.random,
            node_id=self.node_id,
            spans=self.spans,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read and load the models in the background, and answer while the block runs."""
        tasks = [
            self._ctx.tasks.create_task(
                model.run(
                    self._ctx,
                    self._config,
                    self.host,
                    node_id=self.node_id,
                    directory=self.directory,
                ),
                name=f"shards-{name}",
            )
            for name, model in self.models.items()
        ]
        follow = self._ctx.tasks.create_task(self._follow_drain(), name="shards-drain")
        tasks.append(follow)
        try:
            with self._ctx.service(BACKENDS).added(self.backend.name, self.backend):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=10)

    async def _follow_drain(self) -> None:
        """Keep this node's layers out of the directory while it drains."""
        while True:
            with self._ctx.subscribe(Draining) as events:
                self._advertise()
                async for _ in events:
                    self._advertise()

    def _advertise(self) -> None:
        for holder in list(self.host.holders.values()):
            holder.advertise()

    def spans(self) -> list[Span]:
        """The valid spans in the directory now, and this node's own."""
        return with_own(parse_spans(self.directory.known(PREFIX)), self.host.spans())

    def health(self) -> Iterator[HealthWarning]:
        """Models that cannot be used."""
        for name, model in self.models.items():
            holder = model.holder
            if model.problem:
                yield HealthWarning("shards.model", f"model {name}: {model.problem}", "error")
            elif holder is not None and holder.state == "failed":
                yield HealthWarning("shards.load", f"model {name}: {holder.problem}", "error")
            elif holder is not None and holder.state == "restarting":
                text = f"the worker of model {name} is restarted: {holder.problem}"
                yield HealthWarning("shards.worker", text)
