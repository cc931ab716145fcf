"""The catalogue plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager

from aitorrent_catalogue.config import CatalogueConfig
from aitorrent_catalogue.health import check_servers
from aitorrent_catalogue.methods import catalogue_methods
from aitorrent_catalogue.service import CatalogueClient
from aitorrentd.api import (
    Check,
    CheckResult,
    Method,
    PluginChanged,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.models.weights import MODEL_NAMES, TORRENT_INDEXES, WEIGHTS
from aitorrentd.api.tasks import Tasks

NAME = "catalogue"


class CataloguePlugin:
    """Finds and publishes models at the catalogues that the operator configured."""

    def __init__(self) -> None:
        self._client: CatalogueClient | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name=NAME,
            summary="finds and publishes models at catalogues; contacts none unless configured",
            wants=(WEIGHTS, TORRENT_INDEXES, MODEL_NAMES),
            config=CatalogueConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Be an index of torrents and a scheme of model names while the plugin runs."""
        client = CatalogueClient(ctx)
        tasks = Tasks(ctx.tasks)
        if client.config.servers:
            tasks.spawn(_registered(ctx, client), "catalogue: registered")
        try:
            self._client = client
            yield
        finally:
            self._client = None
            await tasks.close()
            await client.close()

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`catalogue.*`."""
        return catalogue_methods(ctx, self._client) if self._client else ()

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check the configured catalogues."""

        async def servers() -> CheckResult:
            return await check_servers(self._client)

        return [Check("servers", "The catalogues answer, and take this node's key.", servers)]


async def _registered(ctx: PluginContext, client: CatalogueClient) -> None:
    """Keep the client entered with whichever plugin has the registries now."""
    while True:
        with ctx.subscribe(PluginChanged) as changes, ExitStack() as entered:
            there = (ctx.optional(TORRENT_INDEXES), ctx.optional(MODEL_NAMES))
            for registry in there:
                if registry is not None:
                    entered.enter_context(registry.added(NAME, client))
            async for _ in changes:
                if (ctx.optional(TORRENT_INDEXES), ctx.optional(MODEL_NAMES)) != there:
                    break
