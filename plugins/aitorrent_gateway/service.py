"""The gateway's routes: those of each dialect."""

from __future__ import annotations

from aitorrent_gateway.anthropic.routes import AnthropicRoutes
from aitorrent_gateway.core.aliases import Aliases
from aitorrent_gateway.core.loops import guarded
from aitorrent_gateway.images.drawing import Drawing
from aitorrent_gateway.images.routes import ImageRoutes
from aitorrent_gateway.mcp.routes import McpRoutes
from aitorrent_gateway.mcp.service import McpService
from aitorrent_gateway.ollama.routes import OllamaRoutes
from aitorrent_gateway.openai.routes import OpenAiRoutes
from aitorrent_gateway.seed.routes import SeedRoutes
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.routes import HttpRoute


def gateway_routes(
    ctx: PluginContext, aliases: Aliases, drawing: Drawing, mcp: McpService
) -> list[HttpRoute]:
    """What the HTTP server mounts."""
    routes = [
        *OpenAiRoutes(ctx, aliases).routes(),
        *ImageRoutes(ctx, drawing).routes(),
        *AnthropicRoutes(ctx, aliases).routes(),
        *OllamaRoutes(ctx, aliases).routes(),
        *SeedRoutes(ctx, aliases, drawing).routes(),
        *McpRoutes(ctx, mcp).routes(),
    ]
    return [guarded(route, ctx.identity.peer_id) for route in routes]
