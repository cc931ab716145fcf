"""The streams on which records are exchanged: the shell around `core`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aitorrent_discovery.gossip.core import Gossip
from aitorrent_discovery.gossip.messages import (
    MAX_HELLO_BYTES,
    MAX_ITEMS_BYTES,
    PROTOCOL,
    Hello,
    encode_items,
    read_hello,
    read_items,
)
from aitorrentd.api import (
    AitorrentError,
    Frame,
    PeerGone,
    PeerId,
    Priority,
    ProtocolError,
    Stream,
    TimedOut,
    Transport,
    WireProtocol,
    read_frame,
)
from aitorrentd.api.network.addresses import parse_address

EXCHANGE_S: Final = 15.0


class Exchanges:
    """Both ends of exchanges. `on_news` is called when records were entered."""

    def __init__(self, gossip: Gossip, transport: Transport, now: Callable[[], float]) -> None:
        self.on_news: Callable[[list[PeerId]], None] = lambda peers: None
        self._gossip = gossip
        self._transport = transport
        self._now = now

    def protocol(self) -> WireProtocol:
        """What this node serves."""
        return WireProtocol(PROTOCOL, self._answer, max_streams=2, priority=Priority.CONTROL)

    async def run(self, peer: PeerId) -> bool:
        """Exchange with a connected peer; whether it was completed."""
        try:
            stream = await self._transport.open_stream(peer, PROTOCOL)
        except AitorrentError:
            return self._unanswered(peer)
        return await self.over(stream)

    async def over(self, stream: Stream) -> bool:
        """Exchange with the peer at the other end of a new stream; whether it was completed."""
        try:
            async with asyncio.timeout(EXCHANGE_S):
                await self._begin(stream)
                await stream.close()
        except (AitorrentError, TimeoutError):
            stream.reset("the exchange failed")
            return self._unanswered(stream.peer)
        except asyncio.CancelledError:
            stream.reset("the node is stopping")
            raise
        self._gossip.standings.answered(stream.peer)
        return True

    def _unanswered(self, peer: PeerId) -> bool:
        self._gossip.counts["unanswered"] += 1
        self._gossip.standings.silent(peer, self._now())
        return False

    async def _begin(self, stream: Stream) -> None:
        peer = stream.peer
        await stream.write(self._gossip.hello().encode())
        hello = await self._hello(stream)
        self._enter(stream, await self._frame(stream, MAX_ITEMS_BYTES))
        await stream.write(encode_items(self._gossip.items(peer, hello)))
        await stream.close_write()
        if await stream.read(1):  # closed by the peer once it has read everything
            raise ProtocolError("bytes after the end of an exchange")
        self._gossip.counts["exchanges"] += 1

    async def _answer(self, stream: Stream) -> None:
        self._gossip.admit(stream.peer)
        try:
            async with asyncio.timeout(EXCHANGE_S):
                hello = await self._hello(stream)
                await stream.write(self._gossip.hello().encode())
                await stream.write(encode_items(self._gossip.items(stream.peer, hello)))
                self._enter(stream, await self._frame(stream, MAX_ITEMS_BYTES))
        except TimeoutError:
            raise TimedOut(f"the exchange took longer than {EXCHANGE_S:g} s") from None
        self._gossip.counts["answered"] += 1

    async def _hello(self, stream: Stream) -> Hello:
        frame = await self._frame(stream, MAX_HELLO_BYTES)
        try:
            return read_hello(frame)
        except ProtocolError as e:
            self._gossip.fault(stream.peer, e.message)
            raise

    def _enter(self, stream: Stream, frame: Frame) -> None:
        try:
            items = read_items(frame)
        except ProtocolError as e:
            self._gossip.fault(stream.peer, e.message)
            raise
        view = self._transport.peer(stream.peer)
        if view is None:
            raise PeerGone("the channel ended")
        # Through a relay, the peer is at least as far away as the relay.
        host = view.host or parse_address(view.address).host
        if fresh := self._gossip.take(stream.peer, host, items):
            self.on_news(fresh)

    async def _frame(self, stream: Stream, max_bytes: int) -> Frame:
        try:
            return await read_frame(stream, max_bytes=max_bytes)
        except ProtocolError as e:
            self._gossip.fault(stream.peer, e.message)
            raise
