"""The kinds of work during which daemons are killed, with the nodes and servers they need."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from tests.support.nodes import DaemonFactory
from tests.support.seeding.daemons import MIB, seeding_daemon
from tests.support.seeding.kill_layers import fetching_layers
from tests.support.seeding.kill_trials import ALONE, Found, Work
from tests.support.seeding.kill_works import RATE, Downloading, FromTheWeb, Sharing
from tests.support.seeding.web import file_server

KINDS: Final = ("share", "download", "web", "layers")


@contextlib.asynccontextmanager
async def works(
    daemons: DaemonFactory, found: Mapping[str, Found], folder: Path
) -> AsyncIterator[dict[str, Work]]:
    """The kinds in `found`, ready to begin; they share the nodes that send."""
    made: dict[str, Work] = {}
    async with file_server(b"") as server:
        server.rate_bps = 24 * MIB
        for kind, one in found.items():
            (folder / kind).mkdir()
            if kind == "share":
                made[kind] = Sharing(daemons, one, folder / kind)
            elif kind == "web":
                made[kind] = FromTheWeb(daemons, one, folder / kind, server)
            elif kind == "download":
                seeder = await seeding_daemon(daemons, plugins=ALONE, upload_limit=RATE)
                made[kind] = Downloading(daemons, one, folder / kind, seeder)
            else:
                made[kind] = await fetching_layers(daemons, one, folder / kind)
        yield made
