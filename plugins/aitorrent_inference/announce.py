"""Keeps this node's records of models current (`ait:cap:`, `ait:embed:`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from aitorrent_inference.capabilities import EMBED_PREFIX, PREFIX, record_key, record_value
from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.routing.embedders import Embedders
from aitorrentd.api import (
    AitorrentError,
    Directory,
    DirectoryChanged,
    Draining,
    ModelView,
    PeerConnected,
    PeerDisconnected,
    PluginChanged,
    PluginContext,
    Transport,
)

_SETTLE_S: Final = 0.2
# A directory accepts 256 records per peer; the rest is for other plugins.
_MAX_RECORDS: Final = 128


_OURS: Final = (PREFIX, EMBED_PREFIX)


def _model_of(key: str) -> str:
    return key.removeprefix(PREFIX).removeprefix(EMBED_PREFIX)


class Announcer:
    """Publishes in the directory the models that peers may use."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        directory: Callable[[], Directory | None],
        log: logging.Logger,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._catalogue = catalogue
        self._embedders = Embedders(catalogue)
        self._directory = directory
        self._log = log
        self._draining = draining
        self._said: dict[str, dict[str, Any]] = {}
        self._said_to: Directory | None = None
        self._refused: set[str] = set()

    async def refresh(self) -> None:
        """Query the backends and update the records; a draining node publishes none."""
        offer: dict[str, ModelView] = {}
        if not self._draining():
            embedders = await self._embedders.offer()
            offer = {record_key(n): v for n, v in (await self._catalogue.offer()).items()}
            offer |= {record_key(n, EMBED_PREFIX): v for n, v in embedders.items()}
        if self._draining():  # draining may have begun during the query
            offer = {}
        directory = self._directory()
        if directory is not self._said_to:
            self._said, self._said_to = {}, directory
        if directory is None:
            return
        wanted = {key: record_value(view) for key, view in list(offer.items())[:_MAX_RECORDS]}
        self._refused &= wanted.keys()
        for key in [k for k in self._said if k not in wanted]:
            directory.withdraw(key)
            del self._said[key]
            self._log.info("no longer answering for %s", _model_of(key))
        for key, value in wanted.items():
            if self._said.get(key) != value:
                self._say(directory, key, value)

    def _say(self, directory: Directory, key: str, value: dict[str, Any]) -> None:
        name = _model_of(key)
        try:
            directory.publish(key, value)
        except AitorrentError as e:
            if key not in self._refused:
                self._log.warning("cannot announce %s: %s", name, e.message)
            self._refused.add(key)
            return
        self._refused.discard(key)
        if key not in self._said:
            self._log.info("answering for %s", name)
        self._said[key] = value

    def withdraw(self) -> None:
        """Withdraw all records."""
        directory = self._directory()
        if directory is not None and directory is self._said_to:
            for key in self._said:
                directory.withdraw(key)
        self._said = {}

    async def run(self, ctx: PluginContext, *, refresh_s: float) -> None:
        """Refresh every `refresh_s` seconds and whenever a plugin, a peer or a non-model record
        changes; runs until cancelled."""
        changed = asyncio.Event()

        async def listen() -> None:
            while True:
                kinds = (
                    PluginChanged,
                    DirectoryChanged,
                    PeerConnected,
                    PeerDisconnected,
                    Draining,
                )
                with ctx.subscribe(*kinds) as events:
                    async for event in events:
                        if isinstance(event, DirectoryChanged) and event.key.startswith(_OURS):
                            continue
                        changed.set()
                # A subscription that lags ends; the events it missed may have mattered.
                changed.set()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(listen(), name="inference: what changed")
                while True:
                    changed.clear()
                    await self.refresh()
                    try:
                        async with asyncio.timeout(refresh_s):
                            await changed.wait()
                    except TimeoutError:
                        continue
                    await asyncio.sleep(_SETTLE_S)
        finally:
            self.withdraw()


async def keep_connected(
    catalogue: Catalogue,
    transport: Callable[[], Transport | None],
    *,
    every_s: float,
    log: logging.Logger,
) -> None:
    """Stay connected to the configured nodes; open channels are reused, so this costs nothing
    while they are up."""
    unreachable: set[str] = set()
    while True:
        for address in catalogue.config.nodes:
            dial = transport()
            if dial is None:
                break
            try:
                catalogue.fixed[address] = (await dial.connect(address)).id
            except AitorrentError as e:
                if address not in unreachable:
                    log.warning("node %s: %s; retrying every %g s", address, e.message, every_s)
                unreachable.add(address)
            else:
                unreachable.discard(address)
        await asyncio.sleep(every_s)
