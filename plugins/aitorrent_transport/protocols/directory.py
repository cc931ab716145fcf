"""The directory by channel: each node tells its records to the peers that it is connected to.

Every node opens one stream `/ai-torrent/1/directory` to each peer and writes frames on it: `put`
with key and value, `del` with key, and once, after the first round of puts, `synced`. What a peer
said is forgotten when it leaves. Values are msgpack maps of at most 4 KiB.
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


class Teller:
    """What one peer is still to be told: keys, so that it never grows past this node's records."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.ended = False
        "The peer left."
        self.cut = False
        "The stream ended."
        self.moved = False
        "The stream is to be opened anew."
        self._keys = set(keys)
        self._news = asyncio.Event()

    def begin(self, keys: Iterable[str]) -> None:
        """Start over with all keys, on a new stream."""
        self.cut = self.moved = False
        self._keys = set(keys)

    def tell(self, key: str) -> None:
        """The record under `key` changed or went away."""
        self._keys.add(key)
        self._news.set()

    def cut_off(self) -> None:
        """The stream ended."""
        self.cut = True
        self._news.set()

    def move(self) -> None:
        """Open the stream anew: another channel is preferred now."""
        self.moved = True
        self.cut_off()

    def end(self) -> None:
        """The peer left."""
        self.ended = True
        self._news.set()

    async def wait(self) -> None:
        """Wait until there is something to tell, or the stream or the peer is gone."""
        if not self.ended and not self.cut:
            await self._news.wait()

    def take(self) -> list[str]:
        """The keys to tell now."""
        self._news.clear()
        keys, self._keys = self._keys, set()
        return sorted(keys)


async def _until_end(stream: Stream, teller: Teller) -> None:
    with suppress(PeerGone):
        await stream.read(1)
    teller.cut_off()


class ChannelDirectory:
    """Implements `aitorrentd.api.Directory` with what connected peers say."""

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
        now = ctx.clock.monotonic
        self._rates = PerPeer(lambda: TokenBucket(_FRAMES_PER_S, _FRAMES_BURST, now()))

    # aitorrentd.api.Directory

    def publish(self, key: str, value: Value) -> None:
        """Say `value` (at most 4 KiB packed) under `key`, replacing this node's earlier record."""
        try:
            check_key(key)
            put_frame(key, value)
            changed = self._book.put(self._me, key, dict(value))
        except ProtocolError as e:
            raise InvalidParams(e.message) from None
        if changed:
            self._changed(self._me, key)

    def withdraw(self, key: str) -> None:
        """Stop saying anything under `key`."""
        if self._book.drop(self._me, key):
            self._changed(self._me, key)

    def known(self, prefix: str) -> Sequence[Record]:
        """Records already here whose key starts with `prefix`, this node's own included."""
        return self._records(lambda key: key.startswith(prefix))

    async def find(self, key: str, *, timeout_s: float = 5.0) -> Sequence[Record]:
        """Records under exactly `key`; peers told theirs when they connected."""
        return self._records(lambda other: other == key)

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

    # Telling

    def peer_up(self, peer: PeerId) -> None:
        """A peer connected: tell it everything, then what changes."""
        teller = self._tellers[peer] = Teller(self._book.of(self._me))
        self._tasks.spawn(self._keep_telling(peer, teller), f"directory to {short(peer)}")

    def peer_down(self, peer: PeerId) -> None:
        """A peer left: what it said no longer holds."""
        teller = self._tellers.pop(peer, None)
        if teller is not None:
            teller.end()
        for key in self._book.forget(peer):
            self._changed(peer, key)

    def peer_moved(self, peer: PeerId) -> None:
        """The channel that the stream is on is to close."""
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

    # Listening

    def protocol(self) -> WireProtocol:
        """How peers tell their records."""
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
        """Give a connected peer time to open its stream anew before its records go."""
        await asyncio.sleep(_GRACE_S)
        if self._reading.get(stream.peer) is stream:
            del self._reading[stream.peer]
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
            case other:
                raise ProtocolError(f"unknown directory operation {str(other)[:40]!r}")
