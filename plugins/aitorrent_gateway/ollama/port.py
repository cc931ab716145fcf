"""The port on which clients look for Ollama, if the settings want it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from aitorrentd.api import AitorrentError, PluginChanged, PluginContext
from aitorrentd.api.faces.door import HTTP

SETTING: Final = "plugins.gateway.ollama_port"


class OllamaPort:
    """Keeps the HTTP server on a further port."""

    def __init__(self, ctx: PluginContext, port: int) -> None:
        self.problem = ""
        "Why the port is not served; empty if it is."
        self._ctx = ctx
        self._port = port

    async def keep_open(self) -> None:
        """Serve until cancelled, also after the HTTP plugin was restarted."""
        ctx = self._ctx
        while True:
            with ctx.subscribe(PluginChanged) as changes:
                door = ctx.optional(HTTP)
                async with AsyncExitStack() as stack:
                    self.problem = "the http plugin is not running"
                    if door is not None:
                        try:
                            opened = door.also_on(self._port, setting=SETTING)
                            await stack.enter_async_context(opened)
                            self.problem = ""
                        except AitorrentError as e:
                            self.problem = e.message
                            ctx.log.warning("%s", e.message)
                    async for _ in changes:
                        if ctx.optional(HTTP) is not door:
                            break
