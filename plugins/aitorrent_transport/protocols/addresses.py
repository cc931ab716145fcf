"""Dial addresses that come or go later: each node tells its connected peers.

The greeting of a channel lists the sender's addresses at that time. When they change (an interface,
a DHCP lease, a port that could not be bound before), the node opens a short
`/ai-torrent/1/addresses` stream to each peer whose list is outdated and writes one frame with the
whole new list, `addresses`. A peer that does not know the protocol resets the stream, and keeps the
old list until it reconnects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aitorrentd.api import (
    AitorrentError,
    Busy,
    PeerGone,
    PeerId,
    PluginContext,
    Priority,
    Stream,
    TimedOut,
    WireProtocol,
    encode_frame,
    read_frame,
    short,
)
from aitorrentd.api.limits import PerPeer, TokenBucket

PROTOCOL: Final = "/ai-torrent/1/addresses"
LOOK_S: Final = 5.0
"Between two looks at the own addresses; they are told once two looks agree."
SECOND_LOOK_S: Final = 0.3
"Between two looks after the network changed."
MAX_FRAME_BYTES: Final = 8192
_TIMEOUT_S: Final = 10.0
# An interface that comes and goes must not make a node talk all the time.
_TELLS_PER_S: Final = 1 / 30
_TELLS_BURST: Final = 4.0
# Above the pace of an honest sender, whose clock may differ.
_TAKEN_PER_S: Final = 1 / 10
_TAKEN_BURST: Final = 10.0


class AddressNews:
    """Which peers have an outdated list of this node's addresses. No I/O and no clock."""

    def __init__(self, now: float) -> None:
        self._pace = TokenBucket(_TELLS_PER_S, _TELLS_BURST, now)
        self._seen: tuple[str, ...] = ()
        self._current: tuple[str, ...] | None = None
        self._told: dict[PeerId, tuple[str, ...]] = {}

    def peer_up(self, peer: PeerId, told: Sequence[str]) -> None:
        """Note a new peer, which was told `told` in the greeting."""
        self._told[peer] = tuple(told)

    def peer_down(self, peer: PeerId) -> None:
        """Note that a peer left."""
        self._told.pop(peer, None)

    def look(self, addresses: Sequence[str], now: float) -> bool:
        """Note the addresses at this time; return whether they are others than before.

        A change counts when two successive looks agree, and not more often than the pace allows.
        """
        seen, self._seen = self._seen, tuple(addresses)
        if seen != self._seen or seen == self._current:
            return False
        is_first = self._current is None
        if not is_first and not self._pace.take(now):
            return False
        self._current = self._seen
        return not is_first

    def outdated(self) -> list[PeerId]:
        """Peers that are to be told the current addresses."""
        if self._seen != self._current:
            return []  # a change that does not count yet
        return [peer for peer, told in self._told.items() if told != self._current]

    @property
    def current(self) -> tuple[str, ...]:
        """The addresses that peers should know."""
        return self._current or ()

    def told(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Note that a peer was told `addresses`, or does not want to know them."""
        if peer in self._told:
            self._told[peer] = tuple(addresses)


class Addresses:
    """Tells peers this node's current dial addresses, and takes theirs.

    `own()` returns this node's addresses, `take(peer, listed)` gets a peer's unchecked list, and
    `on_change()` is called when this node's addresses have changed.
    """

    def __init__(
        self,
        ctx: PluginContext,
        open_stream: Callable[[PeerId, str], Awaitable[Stream]],
        own: Callable[[], Sequence[str]],
        take: Callable[[PeerId, object], None],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        now = ctx.clock.monotonic
        self.news = AddressNews(now())
        self._ctx = ctx
        self._open = open_stream
        self._own = own
        self._take = take
        self._changed = asyncio.Event()
        self._rates = PerPeer(lambda: TokenBucket(_TAKEN_PER_S, _TAKEN_BURST, now()))

    async def follow(self) -> None:
        """Look at the own addresses and tell peers about changes, until cancelled."""
        while True:
            if self.news.look(self._own(), self._ctx.clock.monotonic()):
                # All end in this node's id.
                places = [text.rpartition("/p2p/")[0] or text for text in self.news.current]
                self._ctx.log.info("own addresses: %s", ", ".join(places) or "none")
                self.on_change()
            async with asyncio.TaskGroup() as group:
                for peer in self.news.outdated():
                    group.create_task(self._tell(peer, self.news.current))
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()
            self.news.look(self._own(), self._ctx.clock.monotonic())
            await asyncio.sleep(SECOND_LOOK_S)

    def network_changed(self) -> None:
        """Look at once."""
        self._changed.set()

    async def _tell(self, peer: PeerId, addresses: Sequence[str]) -> None:
        frame = encode_frame({"addresses": list(addresses)})
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                stream = await self._open(peer, PROTOCOL)
                try:
                    await stream.write(frame)
                    await stream.close_write()
                    # The peer closes its side on acceptance, or resets with a reason.
                    await stream.read(1)
                    await stream.close()
                except BaseException:
                    stream.reset("gave up")
                    raise
        except PeerGone as e:
            self._ctx.log.debug("%s does not take new addresses: %s", short(peer), e.message)
        except (AitorrentError, TimeoutError) as e:
            self._ctx.log.debug("new addresses for %s: %s", short(peer), e)
            return  # the next round tries again
        self.news.told(peer, addresses)

    def protocol(self) -> WireProtocol:
        """The wire protocol on which peers tell their addresses."""
        return WireProtocol(PROTOCOL, self._receive, max_streams=2, priority=Priority.CONTROL)

    async def _receive(self, stream: Stream) -> None:
        if not self._rates.of(stream.peer).take(self._ctx.clock.monotonic()):
            raise Busy("addresses change too often")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                frame = await read_frame(stream, max_bytes=MAX_FRAME_BYTES)
        except TimeoutError:
            raise TimedOut(f"no complete list of addresses within {_TIMEOUT_S:g} s") from None
        self._take(stream.peer, frame.header.get("addresses"))
