"""The gateway's routes: those of each dialect."""

from __future__ import annotations

from aitorrent_gateway.anthropic.routes import AnthropicRoutes
from aitorrent_gateway.ollama.routes import OllamaRoutes
from aitorrent_gateway.openai.routes import OpenAiRoutes
from aitorrentd.api import PluginContext
from aitorrentd.api.faces.routes import HttpRoute

_DIALECTS = (OpenAiRoutes, AnthropicRoutes, OllamaRoutes)


def gateway_routes(ctx: PluginContext) -> list[HttpRoute]:
    """What the HTTP server mounts."""
    return [route for dialect in _DIALECTS for route in dialect(ctx).routes()]
