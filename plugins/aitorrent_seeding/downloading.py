"""What `seeding.download` does: from whatever the user wrote to verified files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from aitorrent_seeding.service import SeedingService
from aitorrent_seeding.shapes import DownloadParams, DownloadProgress
from aitorrent_seeding.torrents.wanted import WantedDigest, WantedName, WantedTorrent, parse
from aitorrentd.api import End, InvalidParams, NotFound, Unavailable, replace_file
from aitorrentd.api.models.weights import SmallFile, WantedFile, WebSource
from aitorrentd.api.tasks import beside

if TYPE_CHECKING:
    from aitorrent_seeding.library.entry import Entry

EVERY_S: Final = 0.5


async def download(
    service: SeedingService, params: DownloadParams
) -> AsyncIterator[DownloadProgress | End]:
    """Progress, then the files with their paths.

    Raises:
        InvalidParams: it is not clear what to fetch. NotFound: nobody has it. ProtocolError: what
        arrived is something else. Unavailable: the disk is full, or sources failed.
    """
    if bool(params.what) == bool(params.torrent):
        raise InvalidParams("name one thing: a link, a digest, a name, or a .torrent file")
    if params.torrent:
        entry = await (await service.library()).torrent_file(params.torrent)
        async for item in _torrent(entry):
            yield item
        return
    wanted = parse(params.what)
    if isinstance(wanted, WantedTorrent):
        async for item in _torrent(await (await service.library()).torrent(wanted)):
            yield item
    elif isinstance(wanted, WantedDigest):
        sources = tuple(WebSource(_checked_url(url)) for url in params.urls)
        file = WantedFile(wanted.sha256, 0, wanted.sha256, sources)
        async for item in _file(service, file, wanted.sha256):
            yield item
    else:
        async for item in _model(service, wanted):
            yield item


def _checked_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise InvalidParams(f"{url[:80]!r} is no http:// or https:// URL")
    return url


async def _model(
    service: SeedingService, wanted: WantedName
) -> AsyncIterator[DownloadProgress | End]:
    scheme = service.names.get(wanted.scheme)
    files = (await scheme.resolve(wanted.name, wanted.revision)).files
    small = [(name, file) for name, file in files if isinstance(file, SmallFile)]
    for name, one in small:
        yield await _small(service, one, name)
    for name, file in files:
        if isinstance(file, SmallFile):
            continue
        async for item in _file(service, file, name):
            if not isinstance(item, End):
                yield item
    yield End({})


async def _small(service: SeedingService, file: SmallFile, name: str) -> DownloadProgress:
    """Fetch a file that no swarm carries, such as config.json."""
    from aitorrentd.api.models.small_files import fetch_small

    path = service.directory / "small" / file.git_sha1
    if not path.exists():
        content = await fetch_small(file)
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, content, mode=0o444, durable=False)
        except OSError as e:
            raise Unavailable(f"cannot write {path}: {e.strerror}; make room there") from None
    size = path.stat().st_size
    return DownloadProgress(
        file=file.git_sha1,
        name=name,
        done=size,
        total=size,
        bytes_per_s=0.0,
        peers=0,
        from_peers=0,
        from_web=size,
        path=str(path),
    )


async def _file(
    service: SeedingService, file: WantedFile, name: str
) -> AsyncIterator[DownloadProgress | End]:
    fetch = await service.fetch(file)
    async with beside(fetch.wait(), "seeding: download") as waiting:
        while not waiting.done():
            now = fetch.progress()
            yield DownloadProgress(
                file=file.sha256,
                name=name,
                done=now.done,
                total=now.total,
                bytes_per_s=now.bytes_per_s,
                peers=now.peers,
                from_peers=now.from_peers,
                from_web=now.from_web,
                path="",
            )
            await asyncio.wait({waiting}, timeout=EVERY_S)
        path = waiting.result()
    now = fetch.progress()
    fetch.release()
    yield DownloadProgress(
        file=file.sha256,
        name=name,
        done=now.total,
        total=now.total,
        bytes_per_s=0.0,
        peers=now.peers,
        from_peers=now.from_peers,
        from_web=now.from_web,
        path=str(path),
    )
    yield End({})


async def _torrent(entry: Entry) -> AsyncIterator[DownloadProgress | End]:
    if entry.held.is_paused:
        raise NotFound(f"{entry.held.name} is paused; aitorrentctl seed resume {entry.info_hash}")

    def state(path: str) -> DownloadProgress:
        counts = entry.torrent.counts
        return DownloadProgress(
            file=entry.info_hash,
            name=entry.held.name,
            done=entry.done,
            total=entry.meta.size,
            bytes_per_s=counts.download_bps,
            peers=counts.peers,
            from_peers=entry.from_peers,
            from_web=0,
            path=path,
        )

    async with beside(entry.whole(), "seeding: download") as waiting:
        while not waiting.done():
            yield state("")
            await asyncio.wait({waiting}, timeout=EVERY_S)
        path = waiting.result()
    yield state(str(path))
    yield End({})
