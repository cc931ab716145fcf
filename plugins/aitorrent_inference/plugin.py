"""The inference plugin: what it declares and what runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_inference.announce import Announcer, keep_connected
from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.generate_protocol import PROTOCOL
from aitorrent_inference.health import can_answer, warnings
from aitorrent_inference.methods import inference_methods
from aitorrent_inference.router import Router
from aitorrent_inference.serve import GenerateHandler
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    INFERENCE,
    TRANSPORT,
    Backend,
    Check,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    Registry,
    WireProtocol,
    hookimpl,
)


class InferencePlugin:
    """Routes prompts to backends and peers, and answers those of peers."""

    def __init__(self) -> None:
        self._router: Router | None = None
        self._handler: GenerateHandler | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="inference",
            summary="answers prompts by local backends and by peers",
            provides=(BACKENDS, INFERENCE),
            wants=(TRANSPORT, DIRECTORY),
            config=InferenceConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Offers the registry and the router, and keeps the directory records true."""
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
        self._router = Router(
            catalogue,
            max_local=config.max_local,
            clock=ctx.clock,
            publish=ctx.publish,
            log=ctx.log,
            work=lambda: ctx.work("answer"),
        )
        self._handler = GenerateHandler(
            self._router, max_concurrent=config.max_concurrent, clock=ctx.clock, log=ctx.log
        )
        ctx.provide(BACKENDS, backends)
        ctx.provide(INFERENCE, self._router)
        announcer = Announcer(
            catalogue,
            directory=lambda: ctx.optional(DIRECTORY),
            log=ctx.log,
            draining=lambda: ctx.draining,
        )
        announcing = announcer.run(ctx, refresh_s=config.refresh_s)
        tasks = [ctx.tasks.create_task(announcing, name="inference: announce")]
        if config.nodes:
            connecting = keep_connected(
                config.nodes,
                lambda: ctx.optional(TRANSPORT),
                every_s=config.refresh_s,
                log=ctx.log,
            )
            tasks.append(ctx.tasks.create_task(connecting, name="inference: nodes"))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`inference.models`, `inference.backends`, `inference.generate`."""
        if self._router is None:
            return []
        return inference_methods(self._router, clock=ctx.clock, node=ctx.identity.peer_id)

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """`/ai-torrent/1/generate`."""
        if self._handler is None:
            return []
        # More streams than answers, so that one too many hears "Too many requests".
        spare = self._handler.slots.limit + 27
        return [WireProtocol(PROTOCOL, self._handler, max_streams=spare)]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Whether something can answer a prompt."""
        return [can_answer(self._router)] if self._router is not None else []

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """A warning while nothing here or on connected peers can answer."""
        return warnings(self._router.catalogue) if self._router is not None else []
