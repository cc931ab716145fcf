"""The DHT plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_dht import health, metrics
from aitorrent_dht.config import DhtConfig
from aitorrent_dht.methods import DhtMethods
from aitorrent_dht.service import DhtService, running
from aitorrentd.api import (
    DIRECTORY,
    DIRECTORY_SOURCES,
    REACHABILITY,
    TRANSPORT,
    UDP_LISTENERS,
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.monitoring.metrics import Metric


class DhtPlugin:
    """Finds what nodes offer beyond the connected peers, by a distributed hash table."""

    def __init__(self) -> None:
        self._service: DhtService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="dht",
            summary="finds providers in the whole network by a distributed hash table",
            requires=(TRANSPORT, DIRECTORY, DIRECTORY_SOURCES),
            wants=(REACHABILITY, UDP_LISTENERS),
            config=DhtConfig,
            metrics=metrics.FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Take part in the DHT while the plugin runs."""
        async with running(ctx) as service:
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`dht.put`, `dht.get`, `dht.delete`, `dht.find`, `dht.stats`."""
        return DhtMethods(self._service).methods() if self._service else ()

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the UDP port is bound and that other nodes answer."""
        return [Check("udp", "Other nodes of the DHT answer by UDP.", self._check)]

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """The figures of `dht.stats`."""
        return metrics.read(self._service) if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """Ports that cannot be bound, and files that were damaged or cannot be written."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check(self) -> CheckResult:
        if self._service is None:
            return CheckResult("fail", "the DHT is not running", "aitorrentctl plugin list")
        return health.check(self._service)
