"""The transport plugin: hooks and lifespan."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_transport import health
from aitorrent_transport.config import TransportConfig
from aitorrent_transport.methods import TransportMethods
from aitorrent_transport.methods_bans import BanMethods
from aitorrent_transport.peers.duplicates import HOW_TO_END
from aitorrent_transport.service import TransportService, running
from aitorrentd.api import (
    DIALERS,
    DIRECTORY,
    DIRECTORY_SOURCES,
    PROTECTION,
    TRANSPORT,
    Check,
    CheckResult,
    HealthWarning,
    Method,
    PluginContext,
    PluginInfo,
    hookimpl,
)

_CHECK_S: Final = 3.0


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
            provides=(TRANSPORT, DIALERS, DIRECTORY, DIRECTORY_SOURCES, PROTECTION),
            config=TransportConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Listen and maintain channels while the plugin runs."""
        async with running(ctx) as service:
            self._service = service
            ctx.provide(TRANSPORT, service)
            ctx.provide(DIALERS, service.dialers)
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
        return [*TransportMethods(self._service).methods(), *BanMethods(self._service).methods()]

    @hookimpl
    def aitorrent_checks(self, ctx: PluginContext) -> Iterable[Check]:
        """Check that the port answers locally and that no other node uses this node's key."""
        return [
            Check("port", "The peer port answers locally.", self._check_port),
            Check("key", "No other node uses this node's key.", self._check_key),
        ]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """Current and recent problems that keep peers from connecting."""
        return list(health.warnings(self._service)) if self._service else []

    async def _check_key(self) -> CheckResult:
        if self._service is None:
            return CheckResult("fail", "the transport is not running", "aitorrentctl plugin list")
        seen = self._service.table.rivals.duplicates.current(self._service.now())
        if not seen:
            return CheckResult("ok", "no other node uses this node's key or a peer's")
        return CheckResult("fail", "; ".join(s.text for s in seen), HOW_TO_END)

    async def _check_port(self) -> CheckResult:
        if self._service is None:
            return CheckResult("fail", "the transport is not running", "aitorrentctl plugin list")
        if waiting := self._service.binding.waiting:
            text = "; ".join(error.message for error in waiting.values())
            return CheckResult(
                "fail", text, "retried automatically; see the text above for a remedy"
            )
        for host, port in self._service.bound:
            ip = ipaddress.ip_address(host)
            loopback = "127.0.0.1" if ip.version == 4 else "::1"
            target = loopback if ip.is_unspecified else host
            try:
                async with asyncio.timeout(_CHECK_S):
                    _, writer = await asyncio.open_connection(target, port)
            except (OSError, TimeoutError) as e:
                return CheckResult(
                    "fail",
                    f"{target} port {port}/tcp does not answer: {e or 'no answer in time'}",
                    f"allow tcp port {port} in the firewall",
                )
            writer.close()
        ports = ", ".join(f"{port}/tcp" for port in sorted({p for _, p in self._service.bound}))
        return CheckResult("ok", f"port {ports} answers")
