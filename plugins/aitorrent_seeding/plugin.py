"""The seeding plugin: hooks and lifespan."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec

from aitorrent_seeding.config import SeedingConfig
from aitorrentd.api import PluginContext, PluginInfo, Registry, SkipPlugin, hookimpl
from aitorrentd.api.models.weights import (
    MODEL_NAMES,
    TORRENT_INDEXES,
    WEIGHTS,
    ModelNames,
    TorrentIndex,
)


class SeedingPlugin:
    """Shares, finds and fetches files of models in BitTorrent swarms."""

    @hookimpl
    def aitorrent_info(self) -> PluginInfo:
        """The manifest."""
        return PluginInfo(
            name="seeding",
            summary="shares, finds and fetches files of models in BitTorrent swarms",
            provides=(WEIGHTS, TORRENT_INDEXES, MODEL_NAMES),
            config=SeedingConfig,
        )

    @hookimpl
    @asynccontextmanager
    async def aitorrent_lifespan(self, ctx: PluginContext) -> AsyncIterator[None]:
        """Serve while the plugin runs."""
        if find_spec("libtorrent") is None:
            raise SkipPlugin("aitorrentctl plugin install 'aitorrentd[seeding]'")
        indexes: Registry[TorrentIndex] = Registry("index of torrents")
        names: Registry[ModelNames] = Registry("scheme of model names")
        ctx.provide(TORRENT_INDEXES, indexes)
        ctx.provide(MODEL_NAMES, names)
        yield
