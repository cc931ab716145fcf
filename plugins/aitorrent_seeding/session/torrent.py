"""One torrent in libtorrent's session: its pieces, its state, and whoever waits for them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import libtorrent as lt

from aitorrent_seeding.session.links import Links
from aitorrentd.api import AitorrentError, Unavailable

T = TypeVar("T")

_PRIORITY: Final = 4
"libtorrent's default; 0 = not wanted, 7 = the highest."
_LOW: Final = 1
_TOP: Final = 7


class Awaited(Generic[T]):
    """A result of libtorrent that several may wait for; each settling wakes all of them."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[T]] = []

    def future(self) -> asyncio.Future[T]:
        """The next result."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return future

    def settle(self, value: T) -> None:
        """Give `value` to all that wait."""
        for future in self._taken():
            future.set_result(value)

    def fail(self, error: AitorrentError) -> None:
        """Raise `error` in all that wait."""
        for future in self._taken():
            future.set_exception(error)

    def _taken(self) -> list[asyncio.Future[T]]:
        waiting, self._waiting = self._waiting, []
        return [future for future in waiting if not future.done()]


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of a torrent; bytes, or bytes per second."""

    peers: int = 0
    seeds: int = 0
    served: int = 0
    "Peers that may ask for pieces now."
    download_bps: int = 0
    upload_bps: int = 0
    downloaded: int = 0
    "Payload from peers since the torrent was first added."
    uploaded: int = 0
    progress: float = 0.0
    "Of the pieces that are wanted."
    checking: float | None = None
    "Progress of a hash check that runs."


class Torrent:
    """A torrent of the session. Handle calls here only post to libtorrent's thread."""

    def __init__(self, handle: Any, pieces: int) -> None:
        self.handle = handle
        self.pieces = pieces
        self.links = Links()
        self.have = bytearray(pieces)
        "1 for each piece that is here and verified."
        self.held = 0
        "Number of pieces that are here."
        self.arrived = 0
        "Number of pieces that came from peers in this run."
        self.is_checked = False
        "Whether `have` is known."
        self.counts = Counts()
        self.problem = ""
        "Why it stopped; empty if it did not."
        self.has_failed = False
        "Whether libtorrent reported an error, after which it is started anew."
        self.tracker_problem = ""
        self.resume_was_rejected = False
        self.has_left = False
        "Whether it was removed from the session."
        self.flushed = Awaited[None]()
        self.saved = Awaited[bytes]()
        self.metadata = Awaited[bytes]()
        self.on_bad_piece: Callable[[int], None] = lambda piece: None
        self.is_fed = False
        "Whether pieces also come from elsewhere."
        self._is_in_order = False
        self.exchanged = (0, 0)
        "Payload received and sent, as libtorrent said last: it begins anew after a pause."
        self._given: set[int] = set()
        self._reads: dict[int, Awaited[bytes]] = {}
        self._pulse = Awaited[None]()

    @classmethod
    def outside(cls, pieces: int) -> Torrent:
        """One that is in no session: it neither sends nor receives."""
        torrent = cls(lt.torrent_handle(), pieces)
        torrent.has_left = True
        return torrent

    def _call(self, method: Callable[..., object], *args: object) -> None:
        """Post to libtorrent's thread, unless the torrent was removed."""
        if not self.has_left:
            with suppress(RuntimeError):  # libtorrent dropped it a moment ago
                method(*args)

    # What libtorrent says

    def has_piece(self, piece: int) -> None:
        """A piece arrived, and its hash is right."""
        if 0 <= piece < self.pieces and not self.have[piece]:
            self.have[piece] = 1
            self.held += 1
            self.arrived += piece not in self._given
            self._given.discard(piece)
            self._pulse.settle(None)

    def failed_piece(self, piece: int) -> None:
        """A piece arrived, and its hash is wrong."""
        self._given.discard(piece)
        self.on_bad_piece(piece)

    def was_read(self, piece: int, content: bytes, error: str) -> None:
        """A piece was read from the disk; `error` is empty if that succeeded."""
        if waiting := self._reads.pop(piece, None):
            if error:
                waiting.fail(Unavailable(f"cannot read piece {piece}: {error}"))
            else:
                waiting.settle(content)

    def stopped_by(self, code: int, text: str, path: str) -> None:
        """A file or the whole torrent failed."""
        self.has_failed = True
        where = f" {path}" if path else ""
        if code in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space there, then aitorrentctl seed resume"
            self.problem = f"cannot write{where}: the disk is full; {remedy}"
        elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "let the user of the daemon write there, then aitorrentctl seed resume"
            self.problem = f"cannot use{where}: {text.lower()}; {remedy}"
        else:
            self.problem = f"{text}{where and ':'}{where}"
        self._fail_reads()

    def halt(self, problem: str) -> None:
        """Stop it for a reason, until it is resumed."""
        self.problem = problem
        self.pause()
        self._fail_reads()

    def _fail_reads(self) -> None:
        for waiting in self._reads.values():
            waiting.fail(Unavailable(self.problem))
        self._reads.clear()
        self._pulse.settle(None)

    def updated(self, status: Any) -> None:
        """Its status, with or without the list of pieces."""
        state = str(status.state)
        checks = state.startswith(("checking", "queued"))
        self.counts = Counts(
            peers=status.num_peers,
            seeds=status.num_seeds,
            served=status.num_uploads,
            download_bps=status.download_payload_rate,
            upload_bps=status.upload_payload_rate,
            downloaded=status.all_time_download,
            uploaded=status.all_time_upload,
            progress=status.progress,
            checking=status.progress if checks else None,
        )
        if listed := status.pieces:
            self.have = bytearray(listed[: self.pieces])
            self.have.extend(bytes(self.pieces - len(self.have)))
            self.held = sum(self.have)
            self.is_checked = not checks
        self._pulse.settle(None)

    def moved(self, status: Any) -> tuple[int, int]:
        """Payload received and sent since the last call. libtorrent counts from 0 again after a
        pause."""
        before = self.exchanged
        self.exchanged = now = (status.total_payload_download, status.total_payload_upload)
        received, sent = (n - b if n >= b else n for n, b in zip(now, before, strict=True))
        return received, sent

    def gone(self) -> None:
        """It left the session: whoever waits gets an error."""
        self.has_left = True
        error = Unavailable("the torrent was removed")
        self.problem = self.problem or error.message
        self.flushed.fail(error)
        for waiting in (self.saved, self.metadata, *self._reads.values()):
            waiting.fail(error)
        self._reads.clear()
        self._pulse.settle(None)

    # What others want

    @property
    def is_whole(self) -> bool:
        """Whether every piece is here."""
        return self.is_checked and self.held == self.pieces

    async def until(self, condition: Callable[[], T]) -> T:
        """The first true value of `condition`, asked at each change.

        Raises:
            Unavailable: the torrent stopped, and `problem` says why.
        """
        while not (value := condition()):
            if self.problem:
                raise Unavailable(self.problem)
            await self.changed()
        return value

    def _check_here(self) -> None:
        if self.has_left:
            raise Unavailable("the torrent was removed")

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._pulse.future()

    def pulse(self) -> None:
        """Wake whoever waits for a change."""
        self._pulse.settle(None)

    async def piece(self, piece: int) -> bytes:
        """The content of a piece that is here, or that arrives: it is fetched next.

        Raises:
            Unavailable: it cannot be read, or the torrent stopped.
        """
        self._check_here()
        waiting = self._reads.get(piece)
        if waiting is None:
            waiting = self._reads[piece] = Awaited()
            if self.have[piece]:
                self._call(self.handle.read_piece, piece)
            else:
                self.urge(piece, then_read=True)
        return await waiting.future()

    def urge(self, piece: int, *, after_ms: int = 0, then_read: bool = False) -> None:
        """Fetch a piece before others."""
        flag = lt.deadline_flags_t.alert_when_available if then_read else 0
        self._call(self.handle.set_piece_deadline, piece, after_ms, flag)

    @property
    def has_only_seeds(self) -> bool:
        """Whether peers are known, none of them misses pieces, and nobody else sends any."""
        return 0 < self.counts.peers == self.counts.seeds and not self.is_fed

    def fetch_in_order(self, value: bool) -> None:
        """Whether peers are asked for pieces in the order of the file."""
        if value != self._is_in_order:
            self._is_in_order = value
            flag = lt.torrent_flags.sequential_download
            handle = self.handle
            self._call(handle.set_flags if value else handle.unset_flags, flag)

    def want(self, pieces: Iterable[int] | None, *, first: Iterable[int] = ()) -> None:
        """Fetch only these pieces (None = all), those in `first` before the others."""
        wanted = bytearray([_PRIORITY]) * self.pieces if pieces is None else bytearray(self.pieces)
        for piece in pieces or ():
            wanted[piece] = _PRIORITY
        for piece in first:
            wanted[piece] = _TOP
        self._call(self.handle.prioritize_pieces, list(wanted))

    def rank(self, piece: int, *, is_last: bool) -> None:
        """Whether peers are asked for a piece only when no other is left."""
        if not self.have[piece] and not self.has_left:
            self._call(self.handle.piece_priority, piece, _LOW if is_last else _PRIORITY)

    def give(self, piece: int, content: bytes) -> None:
        """Hand over a piece that came from elsewhere; its hash is checked."""
        self._given.add(piece)
        self._call(self.handle.add_piece, piece, content, 0)

    def recheck(self) -> None:
        """Hash again what is in the file, and fetch what is wrong."""
        self.is_checked, self.held, self.have = False, 0, bytearray(self.pieces)
        self._call(self.handle.force_recheck)

    async def flush(self) -> None:
        """Wait until everything that arrived is in the file."""
        self._check_here()
        flushed = self.flushed.future()
        self._call(self.handle.flush_cache)
        await flushed

    async def resume_data(self) -> bytes:
        """libtorrent's fastresume, for `params.resumed`.

        Raises:
            Unavailable: it cannot be made now.
        """
        self._check_here()
        saved = self.saved.future()
        self._call(self.handle.save_resume_data, lt.save_resume_flags_t.flush_disk_cache)
        return await saved

    def pause(self) -> None:
        """Neither send nor receive."""
        self._call(self.handle.unset_flags, lt.torrent_flags.auto_managed)
        self._call(self.handle.pause)

    def resume(self, *, is_whole: bool) -> None:
        """Send and receive; also after an error. A whole file is never written to."""
        self.problem = ""
        self._call(self.handle.clear_error)
        if not is_whole:
            self._call(self.handle.unset_flags, lt.torrent_flags.upload_mode)
        self._call(self.handle.resume)

    def announce_to(self, trackers: Sequence[str]) -> None:
        """Announce the torrent to further trackers."""
        for url in trackers:
            self._call(self.handle.add_tracker, {"url": url})

    def limit(self, *, upload_bps: int | None = None, download_bps: int | None = None) -> None:
        """Limit rates in bytes per second; 0 = unlimited, None = as before."""
        if upload_bps is not None:
            self._call(self.handle.set_upload_limit, upload_bps)
        if download_bps is not None:
            self._call(self.handle.set_download_limit, download_bps)

    def connect(self, peers: Iterable[tuple[str, int]]) -> None:
        """Try to reach peers at these IP addresses and ports."""
        for peer in peers:
            self._call(self.handle.connect_peer, peer)

    def connect_now(self) -> None:
        """Dial known peers, if none is connected: libtorrent dials once in a second, and when a
        torrent resumes."""
        if not self.counts.peers:
            self._call(self.handle.pause)
            self._call(self.handle.resume)
