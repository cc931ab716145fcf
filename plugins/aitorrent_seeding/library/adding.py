"""Ways onto the shelf: a file that is here, a torrent that an index knows or a user named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aitorrent_seeding.library.entry import Entry
from aitorrent_seeding.library.keeping import boot_id
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.room import Claim
from aitorrent_seeding.library.shelf import Shelf
from aitorrent_seeding.library.store import Held
from aitorrent_seeding.session import params
from aitorrent_seeding.torrents import canonical, metainfo
from aitorrent_seeding.torrents.bencode import encode_info
from aitorrent_seeding.torrents.canonical import FileHashes
from aitorrent_seeding.torrents.hashing import Stamp, hash_file, stamp_of
from aitorrent_seeding.torrents.metainfo import Metainfo
from aitorrentd.api import Conflict, NotFound, ProtocolError
from aitorrentd.api.models.weights import KnownTorrent, Published, Span, is_sha256

_UNPUBLISHED: Final = Published()
METAINFO_S: Final = 60.0
"How long peers may take to send the metainfo of a torrent."


async def add_file(
    means: Means,
    shelf: Shelf,
    path: Path,
    *,
    sha256: str = "",
    published: Published | None = None,
    hybrid: bool = False,
    trackers: Sequence[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Entry:
    """Seed a file of the user where it lies.

    Raises:
        Conflict: it does not have the digest `sha256`, or changed meanwhile. InvalidParams,
        NotFound, Denied: it cannot be read.
    """
    async with means.hashing:
        hashes, stamp = await asyncio.to_thread(
            hash_file, path, hybrid=hybrid, stop=means.stop, progress=progress
        )
    if sha256 and hashes.sha256 != sha256:
        raise Conflict(f"{path} has the SHA-256 {hashes.sha256}, not {sha256}")
    return await add_whole(
        means,
        shelf,
        hashes,
        stamp,
        own_path=path,
        published=published or Published(),
        trackers=trackers,
    )


async def add_whole(
    means: Means,
    shelf: Shelf,
    hashes: FileHashes,
    stamp: Stamp,
    *,
    own_path: Path | None = None,
    name: str = "",
    published: Published = _UNPUBLISHED,
    trackers: Sequence[str] = (),
) -> Entry:
    """Seed a whole file by its canonical torrent: a user's file, or one in the directory."""
    meta = metainfo.read(canonical.metainfo(hashes, private=means.config.private))
    await shelf.restored(info_hash=meta.info_hash)
    if there := shelf.get(meta.info_hash):
        if there.held.is_still(stamp_of(there.path)):  # otherwise it was moved, or changed
            await there.announce_to(trackers)
            if published != _UNPUBLISHED:  # it was shared before anyone knew what it is
                await means.store.change(meta.info_hash, published=published)
                means.tasks.spawn(there.publish(), "seeding: publish")
            return there
        await shelf.remove(there, with_files=own_path is not None)
    held = Held(
        info_hash=meta.info_hash,
        sha256=hashes.sha256,
        name=published.filename or name or (own_path.name if own_path else hashes.sha256),
        size=hashes.size,
        save_path=means.directory,
        own_path=own_path,
        added_at=means.ctx.clock.time(),
        is_whole=True,
        stamp=stamp,
        boot="" if own_path else boot_id(),
        published=published,
        trackers=tuple(trackers),
    )
    entry = await shelf.add(held, meta)
    means.tasks.spawn(entry.publish(), "seeding: publish")
    return entry


async def add_known(
    means: Means,
    shelf: Shelf,
    known: KnownTorrent,
    *,
    name: str = "",
    wanted: tuple[Span, ...] | None = None,
    stop: asyncio.Task[Any] | None = None,
) -> Entry:
    """Fetch a file, or only the `wanted` ranges of it, by a torrent that an index knows; `stop`
    writes the file, and is ended first.

    Raises:
        NotFound: no peer has its metainfo. ProtocolError: it is not a torrent of this file.
        Conflict: it is here already. Unavailable: there is no room.
    """
    raw = known.metainfo or await fetch_metainfo(
        means, known.info_hash, trackers=known.trackers, sha256=known.sha256
    )
    meta = metainfo.read(raw)
    if meta.info_hash != known.info_hash:
        raise ProtocolError(f"the torrent file has the info-hash {meta.info_hash}")
    if not meta.is_single or meta.size != known.size:
        raise ProtocolError(f"the torrent has {len(meta.files)} files and {meta.size} bytes")
    await shelf.restored(info_hash=meta.info_hash)
    held = Held(
        info_hash=meta.info_hash,
        sha256=known.sha256,
        name=name or known.sha256,
        size=meta.size,
        save_path=means.directory,
        added_at=means.ctx.clock.time(),
        trackers=known.trackers,
        wanted=wanted,
    )
    if stop is not None:
        stop.cancel()
        await asyncio.wait({stop})
    return await shelf.add(held, meta)


async def add_torrent(
    means: Means, shelf: Shelf, raw: bytes, *, trackers: Sequence[str] = ()
) -> Entry:
    """Fetch what a .torrent file describes.

    Raises:
        ProtocolError, TooLarge: the torrent file is refused. Unavailable: there is no room.
    """
    meta = metainfo.read(raw)
    await shelf.restored(info_hash=meta.info_hash)
    await shelf.give_up(shelf.get(meta.info_hash))
    if there := shelf.get(meta.info_hash):
        return there
    await means.room.check(Claim(means.directory, (), meta.size))
    sha256 = canonical_digest(meta)
    held = Held(
        info_hash=meta.info_hash,
        sha256=sha256,
        name=meta.name,
        size=meta.size,
        save_path=means.directory if sha256 else means.directory / meta.info_hash,
        added_at=means.ctx.clock.time(),
        trackers=tuple(dict.fromkeys((*trackers, *meta.trackers))),
    )
    return await shelf.add(held, meta)


def canonical_digest(meta: Metainfo) -> str:
    """The SHA-256 that a canonical torrent is named after; empty for other torrents."""
    is_canonical = (
        meta.is_single
        and is_sha256(meta.name)
        and meta.piece_length == canonical.piece_length(meta.size)
    )
    return meta.name if is_canonical else ""


async def fetch_metainfo(
    means: Means,
    info_hash: str,
    *,
    trackers: Sequence[str] = (),
    peers: Sequence[tuple[str, int]] = (),
    sha256: str = "",
    timeout_s: float = METAINFO_S,
) -> bytes:
    """The .torrent file of an info-hash, from nodes or peers (BEP 9); check its hash.

    Raises:
        NotFound: no peer sent it in time. Conflict: it is being fetched.
    """
    for answer in await means.nearby.peers.ask_all(info_hash=info_hash):
        if answer.torrent.info_hash == info_hash and (raw := answer.torrent.metainfo):
            return raw
    torrent = await means.engine.add(
        params.of_magnet(info_hash, means.directory, trackers=trackers, dht=means.config.dht), 0
    )
    try:
        arrived = torrent.metadata.future()
        torrent.connect(peers)
        async with asyncio.timeout(timeout_s):
            while not arrived.done():
                async for found in means.nearby.endpoints(sha256=sha256, info_hash=info_hash):
                    torrent.connect((at.host, at.port) for at in found)
                await asyncio.wait({arrived}, timeout=2.0)
            return encode_info(arrived.result())
    except TimeoutError:
        raise NotFound(
            f"no peer sent the metainfo of {info_hash} within {timeout_s:g} s; name a tracker, or"
            " connect to a node that shares it"
        ) from None
    finally:
        await means.engine.remove(torrent)
