"""Control methods of seeding: `seeding.*`."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Iterator

from aitorrent_seeding.downloading import download
from aitorrent_seeding.service import SeedingService
from aitorrent_seeding.shapes import (
    MAX_TORRENT_BYTES,
    DownloadParams,
    DownloadProgress,
    LimitParams,
    RemoveParams,
    ShareParams,
    ShareResult,
    TorrentFile,
    TorrentRow,
    TorrentsResult,
    WhichParams,
)
from aitorrent_seeding.sharing import row_of, share
from aitorrent_seeding.torrents.exported import with_trackers
from aitorrentd.api import CallContext, End, Method, NoParams, Role, TooLarge


def seeding_methods(service: SeedingService) -> Iterator[Method]:
    """All methods."""

    async def torrents(call: CallContext, params: NoParams) -> TorrentsResult:
        library = service.running_library
        entries = sorted(library.shelf, key=lambda entry: entry.held.added_at) if library else []
        return TorrentsResult(
            torrents=[row_of(entry) for entry in entries],
            port=library.means.engine.port if library else 0,
            directory=str(service.directory),
        )

    async def share_(call: CallContext, params: ShareParams) -> ShareResult:
        return await share(service, call, params)

    async def download_(
        call: CallContext, params: DownloadParams
    ) -> AsyncIterator[DownloadProgress | End]:
        async for item in download(service, params):
            yield item

    async def pause(call: CallContext, params: WhichParams) -> TorrentRow:
        shelf = (await service.library()).shelf
        entry = shelf.find(params.which)
        await shelf.pause(entry)
        return row_of(entry)

    async def resume(call: CallContext, params: WhichParams) -> TorrentRow:
        shelf = (await service.library()).shelf
        return row_of(await shelf.resume(shelf.find(params.which)))

    async def recheck(call: CallContext, params: WhichParams) -> TorrentRow:
        shelf = (await service.library()).shelf
        return row_of(await shelf.recheck(shelf.find(params.which)))

    async def remove(call: CallContext, params: RemoveParams) -> TorrentRow:
        shelf = (await service.library()).shelf
        entry = shelf.find(params.which)
        row = row_of(entry)
        await shelf.remove(entry, with_files=params.files)
        return row

    async def torrent_file(call: CallContext, params: WhichParams) -> TorrentFile:
        entry = (await service.library()).shelf.find(params.which)
        content = with_trackers(entry.meta.raw, entry.held.trackers)
        if len(content) > MAX_TORRENT_BYTES:
            raise TooLarge(
                f"the .torrent file has {len(content)} bytes; pass the info-hash"
                f" {entry.info_hash} instead"
            )
        return TorrentFile(
            name=entry.held.name,
            info_hash=entry.info_hash,
            content=b64encode(content).decode(),
        )

    async def limit(call: CallContext, params: LimitParams) -> TorrentRow:
        shelf = (await service.library()).shelf
        entry = shelf.find(params.which)
        given = params.model_dump(exclude={"which"}, exclude_none=True)
        if "seed_time_s" in given:
            given["seed_s"] = given.pop("seed_time_s")
        await shelf.limit(entry, entry.held.limits.model_copy(update=given))
        return row_of(entry)

    operate = Role.OPERATE
    yield Method(
        "seeding.torrents", torrents, "All torrents of this node.", NoParams, TorrentsResult
    )
    yield Method(
        "seeding.share",
        share_,
        "Share a file or the files of a folder where they lie.",
        ShareParams,
        ShareResult,
        role=operate,
    )
    yield Method(
        "seeding.download",
        download_,
        "Fetch and verify files; reports progress. It goes on if the caller leaves.",
        DownloadParams,
        DownloadProgress,
        role=operate,
        stream=True,
    )
    for name, handler, summary in (
        ("pause", pause, "Stop sending and receiving a torrent, also after a restart."),
        ("resume", resume, "Go on after a pause or an error."),
        ("recheck", recheck, "Hash everything again; what is wrong is fetched again."),
    ):
        yield Method(f"seeding.{name}", handler, summary, WhichParams, TorrentRow, role=operate)
    yield Method(
        "seeding.remove", remove, "Forget a torrent.", RemoveParams, TorrentRow, role=operate
    )
    yield Method(
        "seeding.torrent_file",
        torrent_file,
        "The .torrent file of a torrent, for other clients.",
        WhichParams,
        TorrentFile,
    )
    yield Method(
        "seeding.limit",
        limit,
        "Set the limits of a torrent.",
        LimitParams,
        TorrentRow,
        role=operate,
    )
