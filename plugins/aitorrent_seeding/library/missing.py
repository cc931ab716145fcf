"""Whole files that are not where, or what, they were: on a drive without its mount, or changed."""

from __future__ import annotations

import asyncio
import os

from aitorrent_seeding.library.keeping import boot_id
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.store import Held
from aitorrent_seeding.torrents.hashing import Stamp, digest_file
from aitorrentd.api import AitorrentError


def why_missing(held: Held) -> str:
    """Why the file or folder of a whole torrent cannot be seen; empty if it can. Blocks."""
    if not held.is_whole:
        return ""
    try:
        os.stat(held.path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{held.path} is not there; mount its drive, or aitorrentctl seed remove"
    except OSError as e:
        return f"{held.path} cannot be seen: {e.strerror}; check its drive"
    return ""


async def still_held(means: Means, held: Held) -> Held | None:
    """What is true of a torrent after a restart; None if it is to be forgotten."""
    if not held.is_whole or not held.sha256:
        return held
    try:
        if held.is_still(Stamp.of(os.stat(held.path))):
            return held
        async with means.hashing:
            found, stamp = await asyncio.to_thread(digest_file, held.path, means.stop)
        if found == held.sha256:
            return await means.store.change(held.info_hash, stamp=stamp, boot=boot_id())
        reason = "it changed"
    except (OSError, AitorrentError) as e:
        reason = str(e)
    means.ctx.log.warning("%s is no longer shared: %s", held.path, reason)
    if held.own_path:
        await means.store.remove(held.info_hash)
        return None
    return await means.store.change(held.info_hash, is_whole=False, stamp=None)
