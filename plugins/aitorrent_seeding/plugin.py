"""The seeding plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_seeding import health
from aitorrent_seeding.config import SeedingConfig
from aitorrent_seeding.crediting import claims
from aitorrent_seeding.methods import seeding_methods
from aitorrent_seeding.metrics import FAMILIES
from aitorrent_seeding.service import SeedingService
from aitorrent_seeding.sources.asking import MAX_STREAMS, PROTOCOL
from aitorrentd.api import (
    DIRECTORY,
    TRANSPORT,
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    SkipPlugin,
    Stream,
    Unavailable,
    WireProtocol,
    hookimpl,
)
from aitorrentd.api.models.weights import MODEL_NAMES, TORRENT_INDEXES, WEIGHTS
from aitorrentd.api.monitoring.metrics import Metric


class SeedingPlugin:
    """Shares, finds and fetches files of models in BitTorrent swarms."""

    def __init__(self) -> None:
        self._service: SeedingService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="seeding",
            summary="shares, finds and fetches files of models in BitTorrent swarms",
            provides=(WEIGHTS, TORRENT_INDEXES, MODEL_NAMES),
            requires=(TRANSPORT, DIRECTORY),
            config=SeedingConfig,
            metrics=FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Serve while the plugin runs."""
        if not health.has_libtorrent():
            raise SkipPlugin(health.EXTRA)
        service = SeedingService(ctx)
        async with service.running():
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`seeding.*`."""
        return seeding_methods(self._service) if self._service else ()

    @hookimpl
    def aitorrent_protocols(self, ctx: PluginContext) -> Iterable[WireProtocol]:
        """Peers ask what this node shares, and prove which BitTorrent connections are theirs."""
        return [
            WireProtocol(PROTOCOL, self._answer, max_streams=MAX_STREAMS),
            WireProtocol(claims.PROTOCOL, self._judge, max_streams=claims.MAX_STREAMS),
        ]

    async def _answer(self, stream: Stream) -> None:
        await self._running().peers.handle(stream)

    async def _judge(self, stream: Stream) -> None:
        await self._running().claims.handle(stream)

    def _running(self) -> SeedingService:
        if self._service is None:
            raise Unavailable("the seeding plugin is not running")
        return self._service

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check the library, the port and the disk."""

        async def libtorrent() -> CheckResult:
            return health.check_libtorrent()

        async def port() -> CheckResult:
            return health.check_port(self._service)

        async def disk() -> CheckResult:
            return health.check_disk(ctx.config.directory or ctx.data_dir)

        return [
            Check("libtorrent", "libtorrent is installed.", libtorrent),
            Check("port", "BitTorrent peers can connect.", port),
            Check("disk", "There is room for files.", disk),
        ]

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """Torrents, and bytes exchanged with their peers."""
        return self._service.measured() if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps the node from sharing."""
        return list(health.warnings(self._service)) if self._service else []
