"""Assembles the plugin: catalogue, router, handler and background tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aitorrent_inference.announce import Announcer, keep_connected
from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.peers.serve import GenerateHandler
from aitorrent_inference.routing.router import Router
from aitorrent_inference.routing.seats import Seats
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    INFERENCE,
    PROTECTION,
    TRANSPORT,
    Backend,
    PluginContext,
    Registry,
)
from aitorrentd.api.tasks import Tasks


@dataclass(frozen=True, slots=True)
class InferenceService:
    """The parts that answer prompts from this machine and from peers."""

    router: Router
    handler: GenerateHandler


@asynccontextmanager
async def running(ctx: PluginContext) -> AsyncIterator[InferenceService]:
    """Provide the registry and the router, and keep the directory records current and the
    configured nodes connected."""
    config: InferenceConfig = ctx.config
    backends: Registry[Backend] = Registry("backend")
    catalogue = Catalogue(
        backends,
        config,
        clock=ctx.clock,
        log=ctx.log,
        transport=lambda: ctx.optional(TRANSPORT),
        directory=lambda: ctx.optional(DIRECTORY),
    )
    router = Router(
        catalogue,
        seats=Seats(config.max_local, most_waiting=config.max_waiting),
        clock=ctx.clock,
        publish=ctx.publish,
        log=ctx.log,
        work=lambda: ctx.work("answer"),
    )
    handler = GenerateHandler(
        router,
        max_concurrent=config.max_concurrent,
        clock=ctx.clock,
        log=ctx.log,
        protection=lambda: ctx.optional(PROTECTION),
    )
    ctx.provide(BACKENDS, backends)
    ctx.provide(INFERENCE, router)
    announcer = Announcer(
        catalogue,
        directory=lambda: ctx.optional(DIRECTORY),
        log=ctx.log,
        draining=lambda: ctx.draining,
    )
    announcing = announcer.run(ctx, refresh_s=config.refresh_s)
    tasks = Tasks(ctx.tasks)
    tasks.spawn(announcing, "announce")
    if config.nodes:
        connecting = keep_connected(
            catalogue, lambda: ctx.optional(TRANSPORT), every_s=config.refresh_s, log=ctx.log
        )
        tasks.spawn(connecting, "nodes")
    try:
        yield InferenceService(router, handler)
    finally:
        await tasks.close()
