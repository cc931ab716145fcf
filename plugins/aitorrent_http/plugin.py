"""The HTTP plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_http import health
from aitorrent_http.config import HttpConfig
from aitorrent_http.methods import http_methods
from aitorrent_http.metrics import FAMILIES
from aitorrent_http.service import HttpService
from aitorrentd.api import (
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    hookimpl,
)
from aitorrentd.api.faces.door import HTTP
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.monitoring.metrics import Metric


class HttpPlugin:
    """One HTTP server for the routes of all plugins."""

    def __init__(self) -> None:
        self._service: HttpService | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="http",
            summary="an HTTP server for programs and pages on this machine",
            provides=(HTTP,),
            config=HttpConfig,
            metrics=FAMILIES,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Serve while the plugin runs."""
        service = HttpService(ctx)
        async with service.running():
            ctx.provide(HTTP, service)
            self._service = service
            try:
                yield
            finally:
                self._service = None

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`http.status` and `http.tokens.*`."""
        return http_methods(self._service) if self._service is not None else ()

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        """The page at `/`."""
        return self._service.routes() if self._service is not None else ()

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the server listens."""
        return [Check("server", "The HTTP server listens.", self._check_server)]

    @hookimpl
    def aitorrent_metrics(self) -> Iterable[Metric]:
        """Requests by route."""
        return self._service.metrics.read() if self._service is not None else ()

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps the server from serving."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check_server(self) -> CheckResult:
        return health.check_server(self._service)
