"""The hub plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from aitorrent_hub import health
from aitorrent_hub.config import HubConfig
from aitorrent_hub.methods import hub_methods
from aitorrent_hub.names import HubNames
from aitorrent_hub.service import HubService
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
        service = HubService(ctx)
        async with service.running(), AsyncExitStack() as stack:
            names = ctx.optional(MODEL_NAMES)
            if names is not None:
                stack.enter_context(names.added("hf", HubNames(service.hub)))
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`hub.status`, `hub.acquire` and `hub.scan`."""
        return hub_methods(self._service, ctx) if self._service else ()

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
