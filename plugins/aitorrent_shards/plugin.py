"""Hooks of the shards plugin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.fetching import manifest_exchange
from aitorrent_shards.methods import shards_methods
from aitorrent_shards.methods_models import model_methods
from aitorrent_shards.metrics import FAMILIES
from aitorrent_shards.protocol.messages import PROTOCOL
from aitorrent_shards.service import ShardsService
from aitorrentd.api import (
    BACKENDS,
    DIRECTORY,
    TRANSPORT,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    Priority,
    Stream,
    Unavailable,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.models.weights import MODEL_NAMES, WEIGHTS
from aitorrentd.api.monitoring.metrics import Metric

_STREAMS_PER_SESSION = 4


class ShardsPlugin:
    """Layer ranges of models, computed here and chained over peers."""

    def __init__(self) -> None:
        self._service: ShardsService | None = None

    def _running(self) -> ShardsService:
        if self._service is None:
            raise Unavailable("the shards plugin is not running")
        return self._service

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="shards",
            summary="runs models whose layers are split across peers",
            requires=(TRANSPORT, DIRECTORY, BACKENDS),
            wants=(WEIGHTS, MODEL_NAMES),
            config=ShardsConfig,
            metrics=FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Load and serve until stopped."""
        service = ShardsService(ctx)
        self._service = service
        try:
            async with service.running():
                yield
        finally:
            self._service = None

    @hookimpl
    def aitorrent_methods(self) -> Iterable[Method]:
        """The methods shards.*."""
        return [*shards_methods(self._running), *model_methods(self._running)]

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """The pipeline between stages, and what models consist of."""
        config: ShardsConfig = ctx.config
        return [
            WireProtocol(manifest_exchange.PROTOCOL, self._tell_manifest, max_streams=4),
            WireProtocol(
                PROTOCOL,
                self._handle,
                max_streams=_STREAMS_PER_SESSION * config.max_sessions_per_peer,
                priority=Priority.TENSOR,
            ),
        ]

    async def _tell_manifest(self, stream: Stream) -> None:
        await self._running().manifests.handle(stream)

    async def _handle(self, stream: Stream) -> None:
        await self._running().stage_server.handle(stream)

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """Stages, hops and caches."""
        return self._service.stage_server.measured() if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self) -> Iterable[HealthWarning]:
        """Models that cannot be used."""
        return list(self._service.health()) if self._service else []
