"""The tracker plugin: hooks and lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from aitorrent_tracker import health, metrics
from aitorrent_tracker.config import MEMORY, TrackerConfig
from aitorrentd.api import (
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    SkipPlugin,
    hookimpl,
)
from aitorrentd.api.monitoring.metrics import Metric

if TYPE_CHECKING:
    from aitorrent_tracker.service import TrackerService


def _service_class() -> type[TrackerService]:
    """Imported only where a tracker runs: it takes a few megabytes."""
    from aitorrent_tracker.service import TrackerService

    return TrackerService


class TrackerPlugin:
    """A BitTorrent tracker over HTTP and UDP, for any client; disabled by default."""

    def __init__(self) -> None:
        self._service: TrackerService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="tracker",
            summary="a BitTorrent tracker over HTTP and UDP; disabled by default",
            config=TrackerConfig,
            metrics=metrics.FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Serve while the plugin runs."""
        if ctx.config.storage != MEMORY and find_spec("redis") is None:
            raise SkipPlugin("aitorrentctl plugin install 'aitorrentd[redis]'")
        service = (await asyncio.to_thread(_service_class))(ctx)
        async with service.running():
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`tracker.stats`."""
        if self._service is None:
            return ()
        from aitorrent_tracker.methods import tracker_methods

        return tracker_methods(self._service)

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the tracker listens."""
        return [Check("port", "The tracker listens on its port.", self._check_port)]

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """The figures of `tracker.stats`."""
        return metrics.read(self._service) if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps the tracker from serving."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check_port(self) -> CheckResult:
        return health.check_port(self._service)
