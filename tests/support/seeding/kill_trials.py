"""Daemons that are killed at random moments of their work, and what must be true afterwards.

One life of a daemon is one trial: it starts on what the life before left, works, and gets SIGKILL.
The disk is examined while no daemon runs. What has to be fetched again is known from there, and the
next life that is not killed may fetch no more.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aitorrentd.api.tasks import beside
from tests.support.nodes import Daemon, DaemonFactory
from tests.support.seeding.daemons import settings

STARTING: Final = 0.15
"Share of the kills that hit a daemon that is starting; the others hit its work."
LIFE_S: Final = 240.0
"No work takes so long, also on a machine that has much else to do."
OFF: Final = {"enabled": False}
ALONE: Final = {
    name: OFF
    for name in ("ollama", "openai", "discovery", "nat", "dht", "hub", "catalogue", "shards")
}


@dataclass
class Found:
    """What trials of one kind found."""

    kills: Counter[str] = field(default_factory=Counter)
    "By the moment: starting, working, or after the work."
    finished: int = 0
    "Pieces of work that were completed."
    resumed: int = 0
    "Of those, the ones that a killed daemon had begun."
    kept_bytes: int = 0
    "Bytes on disk when those went on for the last time, which were not fetched again."

    def as_json(self) -> dict[str, Any]:
        """For reports."""
        return {**vars(self), "kills": dict(self.kills)}


class Work(ABC):
    """Something that daemons do, again and again; one piece of it outlives many daemons."""

    tables: Mapping[str, Any] = ALONE
    "Settings of the daemon's plugins besides seeding and transport."
    directory: Path | None = None
    "Of the daemon that does it; None = a new one."

    def __init__(self, daemons: DaemonFactory, found: Found) -> None:
        self._daemons = daemons
        self.found = found
        self.start_s = 5.0
        self.work_s = 1.0
        "How long a piece of work took that was not interrupted."
        self._lives = 0

    @abstractmethod
    async def bootstrap(self) -> list[str]:
        """Addresses of nodes that the daemon connects to."""

    @abstractmethod
    async def begin(self) -> None:
        """Prepare the next piece of work."""

    @abstractmethod
    async def do(self, daemon: Daemon) -> None:
        """Do it, or what is left of it."""

    @abstractmethod
    def check(self, state_dir: Path) -> None:
        """Examine the disk; nobody runs."""

    @abstractmethod
    async def check_finished(self, daemon: Daemon) -> None:
        """Examine what was completed, and what that took."""

    async def daemon(self) -> Daemon:
        """A daemon on what the one before left; it is starting."""
        if self.directory is not None:
            return await self._daemons(directory=self.directory, ready=False)
        transport = {"bootstrap": await self.bootstrap()}
        plugins = {**self.tables, "seeding": settings(), "transport": transport}
        daemon = await self._daemons({"plugins": plugins}, ready=False)
        self.directory = daemon.directory
        return daemon

    async def whole(self) -> None:
        """A piece of work without a kill, to know how long one takes."""
        await self.begin()
        daemon = await self.daemon()
        started = time.monotonic()
        await daemon.ready(LIFE_S)
        self.start_s = time.monotonic() - started
        await self._finish(daemon)
        self.work_s = time.monotonic() - started - self.start_s
        await daemon.kill()
        self.check(daemon.state_dir)
        self._lives = 0
        await self.begin()

    async def trial(self, draw: random.Random) -> None:
        """One life and its end."""
        is_early = draw.random() < STARTING
        moment = draw.random() * (self.start_s if is_early else self.work_s)
        daemon = await self.daemon()
        async with beside(self._live(daemon), "a life") as life:
            if not is_early:
                await daemon.ready(LIFE_S)
            await asyncio.wait({life}, timeout=moment)
            is_over = life.done()
            if is_over:
                life.result()
            await daemon.kill()
        self.found.kills["after" if is_over else "starting" if is_early else "working"] += 1
        self.check(daemon.state_dir)
        self._lives += 1
        if is_over:
            self._lives = 0
            await self.begin()

    async def end(self) -> None:
        """Complete what is left."""
        daemon = await self.daemon()
        await daemon.ready(LIFE_S)
        await self._finish(daemon)

    async def _live(self, daemon: Daemon) -> None:
        await daemon.ready(LIFE_S)
        await self._finish(daemon)

    async def _finish(self, daemon: Daemon) -> None:
        async with asyncio.timeout(LIFE_S):
            await self.do(daemon)
        await self.check_finished(daemon)
        self.found.finished += 1
        self.found.resumed += self._lives > 0
