"""Draws pictures, one at a time: the servers behind have one GPU, and a queue helps nobody."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Final

from aitorrent_gateway.images.config import ImagesConfig
from aitorrent_gateway.images.pictures import Drawn
from aitorrentd.api import Busy, TimedOut

if TYPE_CHECKING:
    from aitorrent_gateway.images.servers import Server

MAX_WAITING: Final = 8
"Requests that wait for their turn; more are answered with 429."
NO_SERVER: Final = (
    "no server draws pictures for this node; set plugins.gateway.images (kind and url)"
)


class Drawing:
    """Pictures from the configured server."""

    def __init__(self, config: ImagesConfig | None) -> None:
        self.config = config
        self._server: Server | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            await self._server.close()

    async def draw(
        self, config: ImagesConfig, prompt: str, size: tuple[int, int] | None = None
    ) -> Drawn:
        """A picture of (width, height) pixels, by default as configured.

        Raises:
            Busy: others wait already. TimedOut: it takes too long. Others: as `Server.draw`.
        """
        if self._waiting >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} pictures are waiting to be drawn; try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(config.timeout_s), self._turn:
                module = await asyncio.to_thread(
                    importlib.import_module, "aitorrent_gateway.images.servers"
                )
                if self._server is None:
                    self._server = module.server_for(config)
                width, height = size or (config.width, config.height)
                drawn: Drawn = await self._server.draw(module.Wish(prompt, width, height))
                return drawn
        except TimeoutError:
            raise TimedOut(
                f"no picture within {config.timeout_s:g} s; plugins.gateway.images.timeout_s is"
                " the limit"
            ) from None
        finally:
            self._waiting -= 1
