"""The transport plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_transport import health, metrics
from aitorrent_transport.checks import checks
from aitorrent_transport.config import TransportConfig
from aitorrent_transport.methods import TransportMethods
from aitorrent_transport.methods_bans import BanMethods
from aitorrent_transport.methods_why import WhyMethods
from aitorrent_transport.service import TransportService, running
from aitorrentd.api import (
    ADVERTISERS,
    ATTEMPTS,
    DIALERS,
    DIRECTORY,
    DIRECTORY_SOURCES,
    PEER_PORT,
    PROTECTION,
    TRANSPORT,
    Check,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.monitoring.metrics import Metric


class TransportPlugin:
    """Secure channels to peers, streams on them, and the directory of what peers offer."""

    def __init__(self) -> None:
        self._service: TransportService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="transport",
            summary="connects peers by encrypted channels, and finds what they offer",
            provides=(
                TRANSPORT,
                DIALERS,
                PEER_PORT,
                ADVERTISERS,
                ATTEMPTS,
                DIRECTORY,
                DIRECTORY_SOURCES,
                PROTECTION,
            ),
            config=TransportConfig,
            metrics=metrics.FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Listen and maintain channels while the plugin runs."""
        async with running(ctx) as service:
            self._service = service
            ctx.provide(TRANSPORT, service)
            ctx.provide(DIALERS, service.dialers)
            ctx.provide(PEER_PORT, service.port)
            ctx.provide(ADVERTISERS, service.advertisers)
            ctx.provide(ATTEMPTS, service.attempts)
            ctx.provide(PROTECTION, service.guard)
            ctx.provide(DIRECTORY, service.directory)
            ctx.provide(DIRECTORY_SOURCES, service.directory.sources)
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`transport.peers`, `connect`, `ping` and others."""
        if self._service is None:
            return ()
        groups = (TransportMethods, BanMethods, WhyMethods)
        return [method for group in groups for method in group(self._service).methods()]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the port answers locally and that no other node uses this node's key."""
        return checks(lambda: self._service)

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """Peers, and the bytes of streams by protocol."""
        return metrics.read(self._service) if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """Current and recent problems that keep peers from connecting."""
        return list(health.warnings(self._service)) if self._service else []
