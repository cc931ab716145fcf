"""The gateway's routes: those of each dialect."""

from __future__ import annotations

from aitorrent_gateway.anthropic.routes import AnthropicRoutes
from aitorrent_gateway.openai.routes import OpenAiRoutes
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.routes import HttpRoute


def gateway_routes(ctx: PluginContext) -> list[HttpRoute]:
    """What the HTTP server mounts."""
    return [*OpenAiRoutes(ctx).routes(), *AnthropicRoutes(ctx).routes()]
