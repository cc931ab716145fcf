"""What `seeding.share` and `seeding.torrents` do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from aitorrent_seeding.service import SeedingService
from aitorrent_seeding.shapes import (
    SharedFile,
    ShareParams,
    ShareResult,
    TorrentLimits,
    TorrentRow,
)
from aitorrent_seeding.torrents.folders import files_below
from aitorrent_seeding.torrents.wanted import is_tracker, magnet_link
from aitorrentd.api import CallContext, InvalidParams
from aitorrentd.api.models.file_names import check_commit, check_repo
from aitorrentd.api.models.weights import Published, is_sha256

if TYPE_CHECKING:
    from aitorrent_seeding.library.entry import Entry


async def share(service: SeedingService, call: CallContext, params: ShareParams) -> ShareResult:
    """Share a file, or the files of a folder.

    Raises:
        InvalidParams: the path is relative, or something in the folder cannot be shared.
        NotFound, Denied: it cannot be read. Conflict: the digest is another, or it changed.
    """
    path = Path(params.path)
    if not path.is_absolute():
        raise InvalidParams(f"{path} is relative; write an absolute path")
    if params.sha256 and not is_sha256(params.sha256):
        raise InvalidParams("a SHA-256 has 64 lower-case hexadecimal digits")
    try:
        for given, check in ((params.repo_id, check_repo), (params.revision, check_commit)):
            if given:
                check(given)
    except ValueError as e:
        raise InvalidParams(f"{given[:200]!r} {e}") from None
    for url in params.trackers:
        if not is_tracker(url):
            raise InvalidParams(
                f"{url[:80]!r} is no URL of a tracker; it begins with http://, https:// or udp://"
            )
    files = await asyncio.to_thread(files_below, path)
    if params.sha256 and len(files) > 1:
        raise InvalidParams(f"{path} has {len(files)} files; give a digest for a single file")
    library = await service.library()
    loop = asyncio.get_running_loop()
    total = sum(size for _, size in files)
    before, shared, skipped = 0, [], []

    for file, size in files:
        if size == 0:
            skipped.append(str(file))
            continue

        def progress(done: int, before: int = before, name: str = file.name) -> None:
            loop.call_soon_threadsafe(
                lambda: call.progress(name, done=before + done, total=total, unit="B")
            )

        within = file.name if file == path else os.fspath(file.relative_to(path))
        published = Published(params.repo_id, params.revision, within)
        entry = await library.offer(
            file,
            sha256=params.sha256,
            published=published,
            hybrid=params.hybrid,
            trackers=params.trackers,
            progress=progress,
        )
        before += size
        shared.append(
            SharedFile(
                path=str(entry.path),
                sha256=entry.held.sha256,
                info_hash=entry.info_hash,
                size=entry.meta.size,
                magnet=magnet_link(entry.info_hash, entry.held.name, entry.held.trackers),
            )
        )
    if not shared:
        raise InvalidParams(f"{path} is empty; there is nothing to share")
    return ShareResult(files=shared, skipped=skipped)


def row_of(entry: Entry) -> TorrentRow:
    """A torrent as it is shown."""
    held, counts = entry.held, entry.torrent.counts
    # libtorrent's rates are means of some seconds, and go on for as long after the last byte.
    receives, sends = not held.is_whole and entry.is_shared, entry.is_shared
    return TorrentRow(
        name=held.name,
        sha256=held.sha256,
        info_hash=entry.info_hash,
        path=str(held.path),
        state=entry.state,
        problem=entry.problem or held.limit_reached,
        size=entry.meta.size,
        done=entry.done,
        partial=held.wanted is not None,
        peers=counts.peers,
        download_bps=counts.download_bps if receives else 0,
        upload_bps=counts.upload_bps if sends else 0,
        downloaded=counts.downloaded,
        uploaded=max(0, entry.uploaded),
        tracker_problem=entry.torrent.tracker_problem,
        limits=TorrentLimits(
            upload_bps=held.limits.upload_bps,
            download_bps=held.limits.download_bps,
            ratio=held.limits.ratio,
            seed_time_s=held.limits.seed_s,
        ),
    )
