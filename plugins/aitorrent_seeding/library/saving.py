"""Saves what libtorrent knows of downloads, so that a restart hashes nothing again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.library.keeping import write_to_disk
from aitorrent_seeding.library.means import Means
from aitorrentd.api import AitorrentError

_STOP_S: Final = 10.0


async def save_states(means: Means, downloads: Iterable[Entry]) -> None:
    """Save the state of those that libtorrent has checked."""
    checked = [entry for entry in downloads if entry.torrent.is_checked]
    if checked:
        states = await asyncio.gather(*(_state(means, entry) for entry in checked))
        await means.store.save_resume([state for state in states if state])


async def _state(means: Means, entry: Entry) -> tuple[str, bytes] | None:
    try:
        async with asyncio.timeout(_STOP_S):
            state = await entry.torrent.resume_data()
            # Pieces that it lists are not hashed again, so they must outlive a power cut.
            if entry.held.sha256:
                await asyncio.to_thread(write_to_disk, entry.path)
            return entry.info_hash, state
    except (AitorrentError, TimeoutError) as e:
        means.ctx.log.debug("no state of %s: %s", entry.info_hash, e)
        return None
