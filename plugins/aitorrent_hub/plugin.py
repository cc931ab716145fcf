"""The hub plugin: hooks and lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from aitorrent_hub import health
from aitorrent_hub.config import HubConfig
from aitorrentd.api import (
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.models.weights import MODEL_NAMES, TORRENT_INDEXES, WEIGHTS

if TYPE_CHECKING:
    from aitorrent_hub.names import HubNames
    from aitorrent_hub.service import HubService


def _classes() -> tuple[type[HubService], type[HubNames]]:
    """Imported only where the plugin is enabled: they take a few megabytes."""
    from aitorrent_hub.names import HubNames
    from aitorrent_hub.service import HubService

    return HubService, HubNames


class HubPlugin:
    """A mirror of the Hugging Face Hub that fetches from the swarm and verifies every file."""

    def __init__(self) -> None:
        self._service: HubService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="hub",
            summary="a mirror of the Hugging Face Hub for programs on this machine",
            wants=(WEIGHTS, TORRENT_INDEXES, MODEL_NAMES),
            config=HubConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Serve while the plugin runs."""
        make_service, make_names = await asyncio.to_thread(_classes)
        service = make_service(ctx)
        async with service.running(), AsyncExitStack() as stack:
            names = ctx.optional(MODEL_NAMES)
            if names is not None:
                stack.enter_context(names.added("hf", make_names(service.hub)))
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`hub.status`, `hub.acquire` and `hub.scan`."""
        if self._service is None:
            return ()
        from aitorrent_hub.methods import hub_methods

        return hub_methods(self._service, ctx)

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the mirror listens."""
        return [Check("mirror", "The mirror of the Hub listens.", self._check_mirror)]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps the mirror from serving."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check_mirror(self) -> CheckResult:
        return health.check_mirror(self._service)
