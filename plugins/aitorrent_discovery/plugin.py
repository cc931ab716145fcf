"""The discovery plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_discovery import health
from aitorrent_discovery.config import DiscoveryConfig
from aitorrent_discovery.methods import discovery_methods
from aitorrent_discovery.service import DiscoveryService
from aitorrentd.api import (
    TRANSPORT,
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.network.protection import PROTECTION


class DiscoveryPlugin:
    """Finds peers by gossip, on the local network, and by the names of seeds."""

    def __init__(self) -> None:
        self._service: DiscoveryService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="discovery",
            summary="finds peers by gossip, on the local network, and by the names of seeds",
            requires=(TRANSPORT, PROTECTION),
            config=DiscoveryConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Find peers while the plugin runs."""
        service = DiscoveryService(ctx)
        async with service.running():
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`discovery.stats` and `discovery.peers`."""
        return discovery_methods(self._service) if self._service else ()

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """Exchanges of peer records."""
        if self._service is None or not self._service.config.gossip:
            return ()
        return [self._service.exchanges.protocol()]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that there is somebody to connect to, and that multicast works."""
        return [
            Check("peers", "Peers are connected, or known to dial.", self._check_peers),
            Check("multicast", "Nodes on the local network can be found.", self._check_multicast),
        ]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps peers from being found."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check_peers(self) -> CheckResult:
        return health.check_peers(self._service)

    async def _check_multicast(self) -> CheckResult:
        return health.check_multicast(self._service)
