"""One torrent on this node: what is saved of it, what libtorrent does with it, and its end.

A file is complete once every piece is here, everything is on disk, and its SHA-256 is the wanted
one. Then it is made read-only. libtorrent does not write to a file that it has whole; its upload
mode is not set then, since it crashes if a peer still owes a block (2.1.1).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from aitorrent_seeding.library.checking import pieces_there
from aitorrent_seeding.library.digest import Digest
from aitorrent_seeding.library.keeping import boot_id, make_read_only, write_to_disk
from aitorrent_seeding.library.means import Means
from aitorrent_seeding.library.room import Claim
from aitorrent_seeding.library.store import Held
from aitorrent_seeding.session.torrent import Torrent
from aitorrent_seeding.sources.directory import Endpoint
from aitorrent_seeding.torrents.hashing import Stamp
from aitorrent_seeding.torrents.metainfo import MAX_TRACKERS, Metainfo
from aitorrentd.api import (
    AitorrentError,
    FileReady,
    PeerId,
    ProtocolError,
    Unavailable,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.models.weights import KnownTorrent, Span

_LOOK_S: Final = 0.5
"Before the second look for peers; doubles up to `_LOOK_AT_MOST_S`."
_LOOK_AT_MOST_S: Final = 60.0
_LOSSES: Final = 2
"How often verified pieces may be wrong on the disk later."


def claim_of(held: Held, meta: Metainfo, have: Sequence[int]) -> Claim:
    """What the files of a torrent will occupy, given the pieces that are here."""
    size = meta.size
    if held.wanted is not None:
        there = (piece for piece, is_here in enumerate(have) if is_here)
        size = min(size, len({*meta.pieces_of(held.wanted), *there}) * meta.piece_length)
    if held.sha256:
        return Claim(held.save_path, (held.path,), size)
    files = tuple(held.save_path.joinpath(*f.path) for f in meta.files if not f.is_padding)
    return Claim(held.save_path, files, size)


class Entry:
    """A torrent on the shelf."""

    def __init__(
        self, means: Means, info_hash: str, meta: Metainfo, torrent: Torrent, *, missing: str = ""
    ) -> None:
        self.info_hash = info_hash
        self.meta = meta
        self.torrent = torrent
        self.missing = missing
        "Why its file cannot be seen; empty if it can."
        self.peers_of: dict[PeerId, set[tuple[str, int]]] = {}
        "Where the nodes are that are known to share it."
        self._means = means
        self._held = means.store.held[info_hash]
        self._ended = asyncio.Event()
        self._error: AitorrentError | None = None
        self._losses = 0
        self._look_again = asyncio.Event()
        self._spans: dict[object, tuple[Span, ...] | None] = {}
        self.seeded_s = 0.0
        "Seconds seeded in this run."
        self.is_disputed = False
        "Whether the web has other bytes than its pieces: only the whole file tells who is right."
        self.urgent = Counter[int]()
        "Pieces that somebody reads next, and by how many."
        if self.held.is_whole:
            self._ended.set()

    @property
    def held(self) -> Held:
        """What is saved; after a removal, what was saved last."""
        self._held = self._means.store.held.get(self.info_hash, self._held)
        return self._held

    @property
    def path(self) -> Path:
        """Where the file, or the folder, lies."""
        return self.held.path

    @property
    def problem(self) -> str:
        """Why it stopped; empty if it did not."""
        problem = self._error.message if self._error else self.torrent.problem
        return self.missing or problem

    @property
    def state(self) -> str:
        """In a word."""
        if self.missing:
            return "missing"
        if self.held.is_paused:
            return "paused"
        if self.problem:
            return "stopped"
        if self.torrent.counts.checking is not None or not self.torrent.is_checked:
            return "checking"
        if self.held.is_whole:
            return "seeding"
        return "verifying" if self.torrent.is_whole else "downloading"

    @property
    def is_shared(self) -> bool:
        """Whether peers may get from it what is here."""
        return not self.held.is_paused and not self.problem

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return min(self.meta.size, self.torrent.held * self.meta.piece_length)

    @property
    def uploaded(self) -> int:
        """Bytes sent to peers, over all runs."""
        return self.held.uploaded + self.torrent.counts.uploaded

    @property
    def has_failed(self) -> bool:
        """Whether it ended with an error, and has to be started again."""
        return self._error is not None

    @property
    def from_peers(self) -> int:
        """Verified bytes that came from peers in this run."""
        return min(self.meta.size, self.torrent.arrived * self.meta.piece_length)

    def known(self) -> KnownTorrent:
        """How others find it."""
        return KnownTorrent(
            sha256=self.held.sha256,
            size=self.meta.size,
            info_hash=self.info_hash,
            piece_length=self.meta.piece_length,
            trackers=self.held.trackers,
            metainfo=self.meta.raw,
        )

    # Ranges

    def has(self, spans: Iterable[Span]) -> bool:
        """Whether all of the byte ranges are here."""
        if self.is_disputed:
            return self.held.is_whole
        return self.torrent.is_checked and all(
            self.torrent.have[piece] for piece in self.meta.pieces_of(spans)
        )

    async def want(self, who: object, spans: Sequence[Span] | None) -> None:
        """Fetch these ranges for `who`, in their order; None = everything."""
        self._spans[who] = None if spans is None else tuple(spans)
        await self._want()

    async def unwant(self, who: object) -> None:
        """`who` no longer wants anything; if nobody does, what is here is only seeded."""
        self._spans.pop(who, None)
        await self._want()

    async def _want(self) -> None:
        if self.held.is_whole:
            return
        wanted = self.wanted()
        await self._means.store.change(self.info_hash, wanted=wanted)
        if (claim := self.claim()) and (short := await self._shortage(claim)):
            self.torrent.halt(short)
        if wanted is None:
            self.torrent.want(None)
        else:
            pieces, first = self.meta.pieces_of(wanted), self.meta.pieces_of(wanted[:1])
            self.torrent.want(pieces, first=first)
        if wanted != () and not self.torrent.counts.peers:
            self.look_for_peers()

    def claim(self) -> Claim | None:
        """What its files will occupy; None while it writes nothing."""
        if self.held.is_whole or not self.is_shared or self.torrent.has_left:
            return None
        return claim_of(self.held, self.meta, self.torrent.have)

    async def _shortage(self, claim: Claim) -> str:
        return await self._means.room.shortage(claim, key=self.info_hash)

    async def check_room(self) -> None:
        """That what is wanted of it fits on the disk.

        Raises:
            Unavailable: it does not.
        """
        claim = claim_of(self.held, self.meta, self.torrent.have)
        if not self.held.is_whole and (short := await self._shortage(claim)):
            raise Unavailable(short)

    def wanted(self) -> tuple[Span, ...] | None:
        """The ranges that somebody wants; None = everything."""
        if None in self._spans.values() or (self.is_disputed and self._spans):
            return None
        return tuple(span for spans in self._spans.values() for span in spans or ())

    def order(self) -> Iterator[int]:
        """Pieces that are wanted and missing, in the order in which they are wanted."""
        wanted = self.wanted()
        pieces = range(self.torrent.pieces) if wanted is None else self.meta.pieces_of(wanted)
        both = (*self.urgent, *pieces)
        return (piece for piece in both if not self.torrent.have[piece])

    def dispute(self) -> None:
        """The web has other bytes than a piece: fetch everything, since the digest decides."""
        if self.held.sha256 and not self.is_disputed:
            self.is_disputed = True
            self._means.tasks.spawn(self._want(), "seeding: fetch everything")

    # Life

    async def run(self) -> None:
        """Find peers until the file is complete, then seed."""
        if self.held.is_whole:
            await self._make_durable()
            return
        looking = self._means.tasks.spawn(self._look_for_peers(), "seeding: look for peers")
        digest = Digest(
            self._means,
            self.torrent,
            self.path,
            size=self.meta.size,
            piece_length=self.meta.piece_length,
        )
        try:
            while not self._ended.is_set():
                try:
                    await digest.follow(lambda: bool(self.held.sha256) and self.held.wanted is None)
                except Unavailable:
                    if self.torrent.has_left:
                        raise
                    await self.torrent.changed()  # it stopped; the user may resume it
                    continue
                await self._complete(digest)
        except AitorrentError as e:
            self._error = e
            self._ended.set()
        finally:
            looking.cancel()

    async def whole(self) -> Path:
        """Wait until the file is complete and verified.

        Raises:
            ProtocolError: what arrived is another file. Unavailable: it stopped, and `problem` says
            why.
        """
        while self.missing or not self._ended.is_set():
            if self.problem:
                raise Unavailable(self.problem)
            await self.torrent.changed()
        if self._error:
            raise self._error
        return self.path

    async def _complete(self, digest: Digest) -> None:
        await self.torrent.flush()
        sha256 = self.held.sha256
        stamp = None
        if sha256:
            found = await digest.finish(sha256)
            if found != sha256:
                if await self._lost_pieces():
                    self._means.ctx.log.warning(
                        "%s changed on the disk; what is wrong in it is fetched again", self.path
                    )
                    self.torrent.recheck()
                    return
                raise ProtocolError(
                    f"the torrent {self.info_hash} is not the file {sha256}: its SHA-256 is"
                    f" {found}; it was discarded"
                )
            make_read_only(self.path)
            stamp = Stamp.of(os.stat(self.path))
        await self._means.store.change(
            self.info_hash, is_whole=True, stamp=stamp, boot=boot_id(), wanted=None
        )
        self._ended.set()
        self.torrent.pulse()
        self._means.ctx.publish(FileReady(sha256, str(self.path), self.meta.size))
        await self.publish()
        await self._make_durable()

    async def _lost_pieces(self) -> bool:
        """Whether pieces that were verified are no longer in the file.

        Raises:
            Unavailable: the disk does not keep what is written.
        """
        async with self._means.hashing:
            there = await asyncio.to_thread(
                pieces_there,
                self.path,
                self.meta.hashes,
                self.meta.piece_length,
                (),
                self._means.stop,
            )
        self._losses += not all(there)
        if self._losses > _LOSSES:
            raise Unavailable(
                f"{self.path} changes on the disk again and again; check the disk (dmesg), then"
                " aitorrentctl seed resume"
            )
        return not all(there)

    async def _make_durable(self) -> None:
        if not self.held.boot:
            return
        try:
            if self.held.sha256:
                await asyncio.to_thread(write_to_disk, self.path)
        except Unavailable as e:
            self._means.ctx.log.warning("%s", e.message)
            return
        await self._means.store.change(self.info_hash, boot="")

    async def publish(self) -> None:
        """Enter the torrent in every index, and announce it to the trackers of those that have
        one."""
        await self.announce_to(await self._means.publish(self.known(), self.held.published))

    async def announce_to(self, trackers: Iterable[str]) -> None:
        """Announce the torrent to those of `trackers` that it does not have yet, too."""
        known = self.held.trackers
        added = [url for url in dict.fromkeys(trackers) if url not in known][:MAX_TRACKERS]
        if added and not self.torrent.has_left:
            self.torrent.announce_to(added)
            await self._means.store.change(self.info_hash, trackers=(*known, *added))

    # Peers

    async def _look_for_peers(self) -> None:
        attempt = 0
        while True:
            async for found in self._means.nearby.endpoints(
                sha256=self.held.sha256, info_hash=self.info_hash
            ):
                if found and not self.torrent.counts.peers:
                    self._means.engine.reconsider_peers()
                self._meet(found)
                if found and not attempt:
                    await self._dial()
            draw = self._means.ctx.random.random()
            delay_s = equal_jitter_s(attempt, base_s=_LOOK_S, cap_s=_LOOK_AT_MOST_S, draw=draw)
            attempt += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._look_again.wait()
                    attempt = 0
            self._look_again.clear()

    def look_for_peers(self) -> None:
        """Look for peers now: libtorrent forgets them while a torrent is paused."""
        self._look_again.set()

    def _meet(self, found: Iterable[Endpoint]) -> None:
        for endpoint in found:
            if endpoint.is_proven:
                self.peers_of.setdefault(endpoint.peer, set()).add((endpoint.host, endpoint.port))
        self.torrent.connect((endpoint.host, endpoint.port) for endpoint in found)

    async def _dial(self) -> None:
        """Dial the first peers at once. Trackers would hear that it stopped and started."""
        while not self.torrent.is_checked and not self.torrent.has_left:
            await self.torrent.changed()
        if self.is_shared and not self.held.trackers:
            self.torrent.connect_now()
