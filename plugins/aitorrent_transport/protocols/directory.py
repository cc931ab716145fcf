"""The directory over channels: each node sends its records to its connected peers.

Every node opens one `/ai-torrent/1/directory` stream to each peer and writes frames on it: `put`
with key and value, `del` with key, and once, after the first round of puts, `synced`. A peer's
records are removed when it leaves. Values are msgpack maps of at most 4 KiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from aitorrent_transport.protocols.book import (
    MAX_FRAME_BYTES,
    MAX_RECORDS,
    Book,
    Value,
    check_key,
    del_frame,
    put_frame,
    read_put,
    synced_frame,
)
from aitorrentd.api import (
    AitorrentError,
    Busy,
    DirectoryChanged,
    Frame,
    InvalidParams,
    PeerGone,
    PeerId,
    PluginContext,
    Priority,
    ProtocolError,
    Record,
    Stream,
    WireProtocol,
    read_frame,
    short,
)
from aitorrentd.api.backoff import equal_jitter_s
from aitorrentd.api.limits import PerPeer, TokenBucket
from aitorrentd.api.tasks import Tasks

PROTOCOL: Final = "/ai-torrent/1/directory"
_FRAMES_PER_S: Final = 50.0
_FRAMES_BURST: Final = 2.0 * MAX_RECORDS
_RETRY_S: Final = 0.5
"Before the first retry; doubles up to a minute."
_WRITE_S: Final = 60.0
_GRACE_S: Final = 5.0
_MAX_GONE: Final = 1024


class Teller:
    """Keys still to send to one peer; keys only, so it never outgrows this node's records."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.ended = False
        "The peer left."
        self.cut = False
        "The stream ended."
        self.moved = False
        "The stream must be reopened."
        self._keys = set(keys)
        self._news = asyncio.Event()

    def begin(self, keys: Iterable[str]) -> None:
        """Start over with all keys on a new stream."""
        self.cut = self.moved = False
        self._keys = set(keys)

    def tell(self, key: str) -> None:
        """Note that the record under `key` changed or was withdrawn."""
        self._keys.add(key)
        self._news.set()

    def cut_off(self) -> None:
        """Note that the stream ended."""
        self.cut = True
        self._news.set()

    def move(self) -> None:
        """Request a new stream: another channel is now preferred."""
        self.moved = True
        self.cut_off()

    def end(self) -> None:
        """Note that the peer left."""
        self.ended = True
        self._news.set()

    async def wait(self) -> None:
        """Wait for keys to send, or for the end of the stream or peer."""
        if not self.ended and not self.cut:
            await self._news.wait()

    def take(self) -> list[str]:
        """Return and clear the keys to send."""
        self._news.clear()
        keys, self._keys = self._keys, set()
        return sorted(keys)


async def _until_end(stream: Stream, teller: Teller) -> None:
    with suppress(PeerGone):
        await stream.read(1)
    teller.cut_off()


class ChannelDirectory:
    """Implements `aitorrentd.api.Directory` over the records of connected peers, each taken from
    the peer itself (`HearsPeers`)."""

    def __init__(
        self,
        ctx: PluginContext,
        tasks: Tasks,
        open_stream: Callable[[PeerId, str], Awaitable[Stream]],
        addresses: Callable[[PeerId], Sequence[str]],
    ) -> None:
        self._ctx = ctx
        self._tasks = tasks
        self._open = open_stream
        self._addresses = addresses
        self._me = ctx.identity.peer_id
        self._book = Book()
        self._tellers: dict[PeerId, Teller] = {}
        self._reading: dict[PeerId, Stream] = {}
        self._synced: set[PeerId] = set()
        self._gone: dict[PeerId, None] = {}
        "Peers that left or could not be reached; the longest gone comes first."
        now = ctx.clock.monotonic
        self._rates = PerPeer(lambda: TokenBucket(_FRAMES_PER_S, _FRAMES_BURST, now()))

    # aitorrentd.api.Directory

    def publish(self, key: str, value: Value) -> None:
        """Publish `value` (at most 4 KiB packed) under `key`, replacing any earlier record."""
        try:
            check_key(key)
            put_frame(key, value)
            changed = self._book.put(self._me, key, dict(value))
        except ProtocolError as e:
            raise InvalidParams(e.message) from None
        if changed:
            self._changed(self._me, key)

    def withdraw(self, key: str) -> None:
        """Withdraw this node's record under `key`."""
        if self._book.drop(self._me, key):
            self._changed(self._me, key)

    def known(self, prefix: str) -> Sequence[Record]:
        """Records held locally whose key starts with `prefix`, including this node's own."""
        return self._records(lambda key: key.startswith(prefix))

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key`; peers sent theirs when they connected."""
        return self._records(lambda other: other == key)

    def has_all_of(self, peer: PeerId) -> bool:
        """Whether the peer sent all its records, and its stream carries the changes."""
        return peer in self._synced

    def is_gone(self, peer: PeerId) -> bool:
        """Whether the peer left or could not be reached, and was not reached again."""
        return peer in self._gone

    def _records(self, wanted: Callable[[str], bool]) -> list[Record]:
        return [
            Record(key, peer, value, tuple(self._addresses(peer)))
            for peer, key, value in self._book.select(wanted)
        ]

    def _changed(self, peer: PeerId, key: str) -> None:
        self._ctx.publish(DirectoryChanged(key, peer))
        if peer == self._me:
            for teller in self._tellers.values():
                teller.tell(key)

    # Sending

    def peer_up(self, peer: PeerId) -> None:
        """Handle a new peer: send it all records, then the changes."""
        self._gone.pop(peer, None)
        teller = self._tellers[peer] = Teller(self._book.of(self._me))
        self._tasks.spawn(self._keep_telling(peer, teller), f"directory to {short(peer)}")

    def peer_down(self, peer: PeerId) -> None:
        """Handle a peer that left: its records are no longer valid."""
        teller = self._tellers.pop(peer, None)
        if teller is not None:
            teller.end()
        self.missed(peer)
        for key in self._book.forget(peer):
            self._changed(peer, key)

    def missed(self, peer: PeerId) -> None:
        """Note that the peer left or could not be reached."""
        if peer in self._tellers:
            return
        self._synced.discard(peer)
        self._gone.pop(peer, None)
        if len(self._gone) >= _MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._gone[peer] = None

    def readdressed(self, peer: PeerId) -> None:
        """Handle new addresses of a node, which are part of its records."""
        for key in self._book.of(peer):
            self._ctx.publish(DirectoryChanged(key, peer))

    def peer_moved(self, peer: PeerId) -> None:
        """Handle the pending close of the channel that carries the stream."""
        if peer in self._tellers:
            self._tellers[peer].move()

    async def _keep_telling(self, peer: PeerId, teller: Teller) -> None:
        attempt = 0
        while not teller.ended:
            try:
                stream = await self._open(peer, PROTOCOL)
                teller.begin(self._book.of(self._me))
                watch = self._tasks.spawn(_until_end(stream, teller), f"watch {short(peer)}")
                try:
                    await self._tell(stream, teller)
                finally:
                    watch.cancel()
                    stream.reset("the directory stream has ended")
            except (AitorrentError, TimeoutError) as e:
                self._ctx.log.debug("directory to %s: %s", short(peer), e)
            if not teller.ended and not teller.moved:
                draw = self._ctx.random.random()
                await asyncio.sleep(equal_jitter_s(attempt, base_s=_RETRY_S, draw=draw))
                attempt += 1

    async def _tell(self, stream: Stream, teller: Teller) -> None:
        is_first = True
        while True:
            mine = self._book.of(self._me)
            out = [
                put_frame(key, mine[key]) if key in mine else del_frame(key)
                for key in teller.take()
            ]
            if is_first:
                out.append(synced_frame())
                is_first = False
            async with asyncio.timeout(_WRITE_S):
                await stream.write(b"".join(out))
            await teller.wait()
            if teller.ended or teller.cut:
                return

    # Receiving

    def protocol(self) -> WireProtocol:
        """The wire protocol on which peers send their records."""
        return WireProtocol(PROTOCOL, self._listen, max_streams=4, priority=Priority.CONTROL)

    async def _listen(self, stream: Stream) -> None:
        peer = stream.peer
        if peer == self._me:
            raise Busy("a node does not send records to itself")
        older = self._reading.get(peer)
        self._reading[peer] = stream
        if older is not None:
            older.reset("replaced by a newer directory stream")
        unconfirmed = set(self._book.of(peer))
        try:
            while True:
                frame = await read_frame(stream, max_bytes=MAX_FRAME_BYTES)
                await asyncio.sleep(self._rates.of(peer).spend(self._ctx.clock.monotonic()))
                if self._reading.get(peer) is not stream:
                    return
                self._take(peer, frame, unconfirmed)
        finally:
            if self._reading.get(peer) is stream and peer not in self._tellers:
                del self._reading[peer]  # the peer left, and its records with it
            elif self._reading.get(peer) is stream:
                self._tasks.spawn(self._forget_later(stream), f"forget {short(peer)}")

    async def _forget_later(self, stream: Stream) -> None:
        """Give a connected peer time to reopen its stream before its records are removed."""
        await asyncio.sleep(_GRACE_S)
        if self._reading.get(stream.peer) is stream:
            del self._reading[stream.peer]
            self._synced.discard(stream.peer)
            for key in self._book.forget(stream.peer):
                self._changed(stream.peer, key)

    def _take(self, peer: PeerId, frame: Frame, unconfirmed: set[str]) -> None:
        match frame.header.get("op"):
            case "put":
                key, value = read_put(frame)
                unconfirmed.discard(key)
                if self._book.put(peer, key, value):
                    self._changed(peer, key)
            case "del":
                key = check_key(frame.header.get("key"))
                if self._book.drop(peer, key):
                    self._changed(peer, key)
            case "synced":
                for key in unconfirmed:
                    if self._book.drop(peer, key):
                        self._changed(peer, key)
                unconfirmed.clear()
                if peer in self._tellers:
                    self._synced.add(peer)
            case other:
                raise ProtocolError(f"unknown directory operation {str(other)[:40]!r}")
