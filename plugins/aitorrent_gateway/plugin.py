"""The gateway plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aitorrent_gateway.config import GatewayConfig
from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.methods import alias_method
from aitorrent_gateway.images.drawing import Drawing
from aitorrent_gateway.mcp.service import McpService
from aitorrent_gateway.ollama.port import OllamaPort
from aitorrent_gateway.service import gateway_routes
from aitorrentd.api import INFERENCE, HealthWarning, Method, PluginContext, PluginInfo, hookimpl
from aitorrentd.api.faces.door import HTTP
from aitorrentd.api.faces.routes import HttpRoute
from aitorrentd.api.tasks import Tasks


class GatewayPlugin:
    """The APIs that programs speak, over every model that this node can answer with."""

    def __init__(self) -> None:
        self._port: OllamaPort | None = None
        self._drawing: Drawing | None = None
        self._mcp: McpService | None = None
        self._aliases: Aliases | None = None

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="gateway",
            summary="APIs for programs over the models of the network",
            wants=(INFERENCE, HTTP),
            config=GatewayConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Keep Ollama's port open, if the settings want it, and the server that draws connected."""
        config: GatewayConfig = ctx.config
        tasks = Tasks(ctx.tasks)
        drawing = self._drawing = Drawing(config.images)
        self._mcp = McpService(ctx)
        aliases = Aliases(config.aliases, ctx.data_dir / "aliases.json", ctx.log)
        await aliases.load()
        self._aliases = aliases
        if config.ollama_port is not None:
            self._port = OllamaPort(ctx, config.ollama_port)
            tasks.spawn(self._port.keep_open(), "gateway: ollama port")
        try:
            yield
        finally:
            self._port = self._drawing = self._mcp = self._aliases = None
            await tasks.close()
            await drawing.close()

    @hookimpl
    def aitorrent_routes(self, ctx: PluginContext) -> Iterable[HttpRoute]:
        """The paths of every dialect."""
        if self._drawing is None or self._mcp is None or self._aliases is None:
            return ()
        return gateway_routes(ctx, self._aliases, self._drawing, self._mcp)

    @hookimpl
    def aitorrent_methods(self, ctx: PluginContext) -> Iterable[Method]:
        """`gateway.mcp` and `gateway.aliases`."""
        if self._mcp is None or self._aliases is None:
            return ()
        return [*self._mcp.methods(), alias_method(self._aliases)]

    @hookimpl
    def aitorrent_health(self, ctx: PluginContext) -> Iterable[HealthWarning]:
        """What keeps clients from finding Ollama's API where they look for it."""
        if self._port is not None and self._port.problem:
            yield HealthWarning("no_ollama_port", f"no Ollama API: {self._port.problem}")
        if self._aliases is not None and self._aliases.problem:
            yield HealthWarning("aliases", self._aliases.problem)
