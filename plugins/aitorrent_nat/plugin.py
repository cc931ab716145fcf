"""The NAT plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_nat import health
from aitorrent_nat.config import NatConfig
from aitorrent_nat.methods import nat_methods
from aitorrent_nat.relay.methods import relay_methods
from aitorrent_nat.service import NatService
from aitorrentd.api import (
    ADVERTISERS,
    ATTEMPTS,
    DIALERS,
    PEER_PORT,
    PROTECTION,
    REACHABILITY,
    TRANSPORT,
    UDP_LISTENERS,
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    WireProtocol,
    hookimpl,
)


class NatPlugin:
    """Finds out who can dial this node, and reaches peers behind NATs."""

    def __init__(self) -> None:
        self._service: NatService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="nat",
            summary="finds out who can dial this node, and reaches peers behind NATs",
            provides=(REACHABILITY, UDP_LISTENERS),
            requires=(TRANSPORT, PROTECTION, PEER_PORT, DIALERS, ADVERTISERS, ATTEMPTS),
            config=NatConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Traverse NATs while the plugin runs."""
        service = NatService(ctx)
        async with service.running():
            self._service = service
            ctx.provide(REACHABILITY, service.reach)
            ctx.provide(UDP_LISTENERS, service.listeners)
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`nat.status`, `nat.probe` and `nat.relays`."""
        if self._service is None:
            return ()
        return [*nat_methods(self._service), *relay_methods(self._service.relay)]

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """What the parts serve."""
        if self._service is None:
            return ()
        return [protocol for part in self._service.parts for protocol in part.protocols()]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that strangers can reach this node."""
        return [Check("reach", "Strangers can reach this node.", self._check_reach)]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """Problems of the parts."""
        if self._service is None:
            return ()
        return [warning for part in self._service.parts for warning in part.warnings()]

    async def _check_reach(self) -> CheckResult:
        return health.check_reach(self._service)
