"""The torrents of this node: added, restored after a restart, saved, limited, removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Final

from aitorrent_seeding.library.checking import pieces_there
from aitorrent_seeding.library.entry import Entry, claim_of
from aitorrent_seeding.library.keeping import delete_below
from aitorrent_seeding.library.limits import limit_reached
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.missing import still_held, why_missing
from aitorrent_seeding.library.saving import save_states
from aitorrent_seeding.library.store import Held, Limits
from aitorrent_seeding.session import params
from aitorrent_seeding.session.torrent import Awaited, Torrent
from aitorrent_seeding.torrents import metainfo
from aitorrent_seeding.torrents.metainfo import Metainfo
from aitorrentd.api import AitorrentError, Conflict, FileMissing, FileReady, NotFound
from aitorrentd.api.models.weights import KnownTorrent

LEAST_DIGITS: Final = 4
"Of a digest, to name a torrent by."
SAVE_S: Final = 10.0
"Between two saves of the state of downloads."
_LIMITS_S: Final = 5.0


class Shelf:
    """Every torrent of this node by its info-hash."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._entries: dict[str, Entry] = {}
        self._of: dict[Torrent, Entry] = {}
        self._adding: set[str] = set()
        self._unrestored = dict.fromkeys(means.store.held)
        self._restore_next: list[str] = []
        self._restored = Awaited[None]()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, info_hash: str) -> Entry | None:
        """The torrent, if it is here."""
        return self._entries.get(info_hash)

    def of_torrent(self, torrent: Torrent) -> Entry | None:
        """The entry of a torrent of the session, if it is here."""
        return self._of.get(torrent)

    def find(self, text: str) -> Entry:
        """The torrent whose info-hash, SHA-256 or name `text` is, or begins.

        Raises:
            NotFound: there is none. Conflict: there are several.
        """
        text = text.strip()
        found = [e for e in self if text in (e.info_hash, e.held.sha256, e.held.name)]
        if not found and len(text) >= LEAST_DIGITS:
            found = [
                e
                for e in self
                if e.info_hash.startswith(text.lower()) or e.held.sha256.startswith(text.lower())
            ]
        if not found:
            short = "" if len(text) >= LEAST_DIGITS else f"; give {LEAST_DIGITS} digits or more"
            raise NotFound(
                f"there is no torrent {text[:80]!r} here{short}; see aitorrentctl torrents"
            )
        if len(found) > 1:
            raise Conflict(f"{len(found)} torrents match {text[:80]!r}; write more of the digest")
        return found[0]

    # Adding

    async def add(self, held: Held, meta: Metainfo) -> Entry:
        """Put a torrent on the shelf, and start it. One that is whole has just been verified.

        Raises:
            Conflict: it is there. ProtocolError, Unavailable: libtorrent does not take it.
        """
        if held.info_hash in self._entries or held.info_hash in self._adding:
            raise Conflict(f"the torrent {held.info_hash} is here already")
        self._adding.add(held.info_hash)
        try:
            await self._means.store.add(held, meta.raw)
            return await self._start(held, meta, verified=held.is_whole)
        finally:
            self._adding.discard(held.info_hash)

    async def _start(
        self, held: Held, meta: Metainfo, *, resume: bytes = b"", verified: bool = False
    ) -> Entry:
        config = self._means.config
        have: list[bool] | None = None
        renamed = {0: held.path} if meta.is_single and held.sha256 else meta.long_names
        if meta.is_single and meta.hashes and not held.is_whole:
            have = await self._what_is_there(held, meta, resume)
        short = ""
        if not held.is_whole and not held.is_paused:
            short = await self._means.room.shortage(claim_of(held, meta, have or ()))
        atp = params.of_metainfo(
            meta.raw,
            held.save_path,
            renamed=renamed,
            resume=resume if have is None else b"",
            have=have,
            seeds=held.is_whole,
            verified=verified,
            paused=held.is_paused or bool(short),
            wanted=None if held.is_whole or held.wanted is None else meta.pieces_of(held.wanted),
            allocate=config.preallocate,
            dht=config.dht and not meta.is_private,
            trackers=held.trackers,
            web_seeds=() if held.sha256 else meta.web_seeds,
        )
        torrent = await self._means.engine.add(atp, meta.pieces)
        entry = self._entries[held.info_hash] = Entry(self._means, held.info_hash, meta, torrent)
        self._of[torrent] = entry
        if short:
            torrent.halt(short)
        self._means.room.enter(held.info_hash, entry.claim, torrent.halt)
        torrent.limit(upload_bps=held.limits.upload_bps, download_bps=held.limits.download_bps)
        if held.wanted is not None and not held.is_whole:
            await entry.want(entry, held.wanted)
        self._means.nearby.directory.share(entry.known())
        self._means.tasks.spawn(entry.run(), f"seeding: torrent {held.info_hash[:8]}")
        return entry

    async def _what_is_there(self, held: Held, meta: Metainfo, resume: bytes) -> list[bool]:
        known = params.pieces_in(resume)
        async with self._means.hashing:
            return await asyncio.to_thread(
                pieces_there,
                held.path,
                meta.hashes,
                meta.piece_length,
                known,
                self._means.stop,
            )

    # Across restarts

    async def restore(self) -> None:
        """Start what was here when the node stopped. One that cannot be started is logged."""
        try:
            while self._unrestored:
                wanted = self._restore_next.pop() if self._restore_next else ""
                info_hash = wanted if wanted in self._unrestored else next(iter(self._unrestored))
                if held := self._means.store.held.get(info_hash):
                    await self._restore(held)
                self._unrestored.pop(info_hash)
                self._restored.settle(None)
        finally:
            self._unrestored.clear()
            self._restored.settle(None)

    async def _restore(self, held: Held) -> None:
        raw, resume = await self._means.store.parts(held.info_hash)
        try:
            meta = metainfo.read(raw)
            if why := await asyncio.to_thread(why_missing, held):
                self._miss(held, meta, why)
            elif kept := await still_held(self._means, held):
                await self._start(kept, meta, resume=resume)
        except AitorrentError as e:
            self._means.ctx.log.warning("cannot share %s: %s", held.path, e.message)

    async def restored(self, *, sha256: str = "", info_hash: str = "") -> None:
        """Wait until what was here of this file, or torrent, is here again; it comes next."""
        while found := [
            one
            for one in self._unrestored
            if one == info_hash
            or (sha256 and (held := self._means.store.held.get(one)) and held.sha256 == sha256)
        ]:
            self._restore_next += found
            await self._restored.future()
        for entry in self:
            if entry.missing and (
                entry.info_hash == info_hash or (sha256 and entry.held.sha256 == sha256)
            ):
                with contextlib.suppress(AitorrentError):
                    await self._look(entry)

    def _miss(self, held: Held, meta: Metainfo, why: str) -> None:
        """Keep a torrent in the list whose file is not there, without libtorrent."""
        torrent = Torrent.outside(meta.pieces)
        entry = Entry(self._means, held.info_hash, meta, torrent, missing=why)
        self._entries[held.info_hash] = entry
        self._means.ctx.log.warning("%s is missing: %s", held.name, why)
        self._means.ctx.publish(FileMissing(held.sha256, str(held.path), why))

    async def _look(self, entry: Entry) -> Entry:
        """Seed a missing file again if it is back.

        Raises:
            NotFound: it is not, or it is another file. Conflict: it is being looked at.
        """
        key, held = entry.info_hash, entry.held
        if key in self._adding or self._entries.get(key) is not entry:
            raise Conflict(f"{held.path} is being looked at")
        self._adding.add(key)
        try:
            if why := await asyncio.to_thread(why_missing, held):
                entry.missing = why
                raise NotFound(why)
            kept = await still_held(self._means, held)
            if self._entries.get(key) is not entry:
                raise NotFound(f"{held.name} was removed")
            await self._take_down(entry)
            if kept is None:
                raise NotFound(f"{held.path} is no longer the file that was shared")
            found = await self._start(kept, entry.meta)
        finally:
            self._adding.discard(key)
        if kept.is_whole:
            self._means.ctx.log.info("%s is back at %s", held.name, held.path)
            self._means.ctx.publish(FileReady(held.sha256, str(held.path), held.size))
        return found

    async def give_up(self, entry: Entry | None) -> None:
        """Forget a missing torrent, if it is one, so that it can be fetched."""
        if entry and entry.missing:
            self._means.ctx.log.warning("%s is fetched, since it is missing", entry.held.name)
            await self.remove(entry, with_files=False)

    async def _look_for_missing(self) -> None:
        """Seed what is back, and note which files libtorrent can no longer read."""
        for entry in self:
            if entry.missing:
                with contextlib.suppress(AitorrentError):
                    await self._look(entry)
            elif entry.torrent.has_failed and (
                why := await asyncio.to_thread(why_missing, entry.held)
            ):
                await self._take_down(entry)
                self._miss(entry.held, entry.meta, why)

    async def keep_saving(self) -> None:
        """Save the state of downloads at intervals, and stop what reached its limits."""
        ticks = round(SAVE_S / _LIMITS_S)
        while True:
            for _ in range(ticks):
                await asyncio.sleep(_LIMITS_S)
                await self._apply_limits()
                await self._look_for_missing()
            await self.save()

    async def save(self) -> None:
        """Save the state of every download."""
        await save_states(self._means, (e for e in self if not e.held.is_whole))

    async def close(self) -> None:
        """Save what is only known while the session runs."""
        await self.save()
        for entry in self:
            if entry.held.is_whole:
                await self._means.store.change(
                    entry.info_hash,
                    uploaded=entry.uploaded,
                    seeded_s=entry.held.seeded_s + entry.seeded_s,
                )

    async def _apply_limits(self) -> None:
        for entry in self:
            if not entry.held.is_whole or entry.held.is_paused or entry.missing:
                continue
            entry.seeded_s += _LIMITS_S
            if why := limit_reached(entry, self._means.config):
                self._means.ctx.log.info("stopped seeding %s: %s", entry.held.name, why)
                await self.pause(entry, limit=why)

    # What users do

    async def pause(self, entry: Entry, *, limit: str = "") -> None:
        """Neither send nor receive, also after a restart; `limit` is the one that was reached."""
        await self._means.store.change(entry.info_hash, is_paused=True, limit_reached=limit)
        entry.torrent.pause()
        entry.torrent.pulse()
        self._means.nearby.directory.withdraw(entry.info_hash)

    async def resume(self, entry: Entry) -> Entry:
        """Go on after a pause or an error; limits of ratio and time count from now.

        Raises:
            Unavailable: there is no room for it on the disk. NotFound: its file is missing.
        """
        entry.seeded_s = 0.0
        await self._means.store.change(
            entry.info_hash,
            is_paused=False,
            limit_reached="",
            seeded_s=0.0,
            uploaded=-entry.torrent.counts.uploaded,
        )
        if entry.missing:
            return await self._look(entry)
        if entry.has_failed or (entry.torrent.has_failed and not entry.held.is_whole):
            # Writes that fail late would stop it again, and libtorrent forgets its peers.
            return await self.recheck(entry)
        await entry.check_room()
        entry.torrent.resume(is_whole=entry.held.is_whole)
        entry.look_for_peers()
        entry.torrent.pulse()
        self._means.nearby.directory.share(entry.known())
        return entry

    async def limit(self, entry: Entry, limits: Limits) -> None:
        """Set the limits of a torrent."""
        await self._means.store.change(entry.info_hash, limits=limits)
        entry.torrent.limit(upload_bps=limits.upload_bps, download_bps=limits.download_bps)

    async def recheck(self, entry: Entry) -> Entry:
        """Hash everything again; what is wrong is fetched again, unless it is the user's file."""
        if entry.missing:
            return await self._look(entry)
        held = entry.held
        if why := await asyncio.to_thread(why_missing, held):
            await self._take_down(entry)
            self._miss(held, entry.meta, why)
            raise NotFound(why)
        await self._take_down(entry)
        if held.sha256 and held.is_whole:
            stale = held.changed(stamp=None)
            self._means.store.held[held.info_hash] = stale
            kept = await still_held(self._means, stale)
        else:
            kept = held
        if kept is None:
            raise NotFound(
                f"{held.path} is no longer the file that was shared, so it is shared no more; to"
                " share what it is now: aitorrentctl share"
            )
        if not kept.own_path and not kept.is_whole:
            with contextlib.suppress(OSError):
                os.chmod(kept.path, 0o644)
        return await self._start(kept, entry.meta)

    async def remove(self, entry: Entry, *, with_files: bool) -> None:
        """Forget a torrent; files of the user stay in any case."""
        held = entry.held
        await self._take_down(entry)
        await self._means.store.remove(held.info_hash)
        if with_files and held.own_path is None:
            await asyncio.to_thread(delete_below, held.path, self._means.directory)

    async def _take_down(self, entry: Entry) -> None:
        self._means.nearby.directory.withdraw(entry.info_hash)
        self._means.room.leave(entry.info_hash)
        self._entries.pop(entry.info_hash, None)
        self._of.pop(entry.torrent, None)
        await self._means.engine.remove(entry.torrent)

    def known(self, *, sha256: str, info_hash: str) -> KnownTorrent | None:
        """The torrent of a file, or with an info-hash, for peers that ask."""
        entry = self.of_file(sha256) if sha256 else self._entries.get(info_hash)
        return entry.known() if entry and entry.is_shared else None

    def of_file(self, sha256: str) -> Entry | None:
        """The torrent of a file, a whole one first."""
        held = self._means.store.of_file(sha256)
        return self._entries.get(held.info_hash) if held else None
