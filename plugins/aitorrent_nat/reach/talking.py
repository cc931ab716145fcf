"""The streams between NAT plugins: this node's questions, and what it does for its peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from aitorrent_nat.networks import Place, place_of
from aitorrent_nat.reach.messages import (
    MAGIC,
    MAX_FRAME_BYTES,
    PROTOCOL,
    Ask,
    DialBack,
    Hello,
    SendDatagram,
    fields_of,
    read_ask,
    read_hello,
)
from aitorrent_nat.stun.codec import Response, encode_response
from aitorrent_nat.stun.sockets import is_here
from aitorrentd.api import (
    Busy,
    Offence,
    PeerGone,
    PeerId,
    PluginContext,
    Priority,
    Protection,
    ProtocolError,
    Stream,
    TimedOut,
    Transport,
    Unavailable,
    WireProtocol,
    encode_frame,
    read_frame,
)
from aitorrentd.api.fields import flag
from aitorrentd.api.limits import PerPeer, Slots, TokenBucket

TALK_S: Final = 10.0
DIAL_S: Final = 4.0
MAX_DIALS: Final = 8
"Dials for peers at the same time."
# A node asks for two datagrams and one or two dials in a round, and rounds are minutes apart.
_ASKS_PER_S: Final = 1 / 10
_ASKS_BURST: Final = 20.0
_DIALS_PER_S: Final = 1 / 30
_DIALS_BURST: Final = 6.0

SendTo = Callable[[bytes, Place, str, bool], bool]
"""Sends a datagram to a place, from an own address (empty: any) and the STUN port or the alternate
one; whether it left."""


class Talks:
    """Both ends of the protocol.

    `own()` is this node's hello, `send` its STUN sockets, and `on_hello(peer, hello)` gets those of
    others.
    """

    def __init__(
        self,
        ctx: PluginContext,
        transport: Transport,
        guard: Protection,
        own: Callable[[], Hello],
        send: SendTo,
        on_hello: Callable[[PeerId, Hello], None],
    ) -> None:
        self._transport = transport
        self._guard = guard
        self._own = own
        self._send = send
        self._on_hello = on_hello
        self._now = ctx.clock.monotonic
        self._asks = PerPeer(lambda: TokenBucket(_ASKS_PER_S, _ASKS_BURST, self._now()))
        self._dials = PerPeer(lambda: TokenBucket(_DIALS_PER_S, _DIALS_BURST, self._now()))
        self._dialling = Slots(MAX_DIALS)

    # What this node asks for

    async def greet(self, peer: PeerId) -> None:
        """Exchange hellos with a connected peer.

        Raises:
            AitorrentError: it has no NAT plugin, or does not answer.
        """
        header = await self._ask(peer, self._own())
        self._on_hello(peer, read_hello(header))

    async def ask_for(self, peer: PeerId, ask: SendDatagram | DialBack) -> bool:
        """Have a peer send a datagram or dial; whether it says that it did.

        Raises:
            AitorrentError: it refuses, or does not answer.
        """
        return flag(await self._ask(peer, ask), "done")

    async def _ask(self, peer: PeerId, ask: Ask) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(TALK_S):
                stream = await self._transport.open_stream(peer, PROTOCOL)
                try:
                    await stream.write(encode_frame(fields_of(ask)))
                    await stream.close_write()
                    frame = await read_frame(stream, max_bytes=MAX_FRAME_BYTES)
                    await stream.close()
                except BaseException:
                    stream.reset("gave up")
                    raise
        except TimeoutError:
            raise TimedOut(f"no answer within {TALK_S:g} s") from None
        return frame.header

    # What it does for others

    def protocol(self) -> WireProtocol:
        """What this node serves."""
        return WireProtocol(PROTOCOL, self._serve, max_streams=4, priority=Priority.CONTROL)

    async def _serve(self, stream: Stream) -> None:
        if not self._asks.of(stream.peer).take(self._now()):
            raise Busy("asked too often; ask again in a minute")
        try:
            async with asyncio.timeout(TALK_S):
                frame = await read_frame(stream, max_bytes=MAX_FRAME_BYTES)
                ask = read_ask(frame.header)
                if isinstance(ask, Hello):
                    self._on_hello(stream.peer, ask)
                    reply = self._own().fields()
                elif isinstance(ask, SendDatagram):
                    reply = {"done": self._send_datagram(stream.peer, ask)}
                else:
                    reply = {"done": await self._dial(stream.peer, ask)}
                await stream.write(encode_frame(reply))
                await stream.close_write()
        except ProtocolError as e:
            self._guard.report(stream.peer, Offence.INVALID_MESSAGE, e.message)
            raise
        except TimeoutError:
            raise TimedOut(f"the question took longer than {TALK_S:g} s") from None

    def _host_of(self, peer: PeerId) -> str:
        """The IP address of a peer's channel: nothing is sent anywhere else on its behalf."""
        view = self._transport.peer(peer)
        if view is None:
            raise PeerGone("the channel ended")
        if not view.host:
            raise Unavailable("the address of a relayed peer is not known here")
        return view.host

    def _send_datagram(self, peer: PeerId, ask: SendDatagram) -> bool:
        to = (self._host_of(peer), ask.port)
        response = Response(ask.transaction, mapped=to)
        # The peer expects it from where it sees this node, which may have several addresses.
        view = self._transport.peer(peer)
        seen = place_of(view.observed) if view is not None else None
        host = seen[0] if seen is not None and is_here(seen[0]) else ""
        return self._send(encode_response(response), to, host, ask.from_alternate)

    async def _dial(self, peer: PeerId, ask: DialBack) -> bool:
        host = self._host_of(peer)
        if self._transport.is_masking:
            raise Unavailable("this node masks its connections, which a dial-back would betray")
        if not self._dials.of(peer).take(self._now()):
            raise Busy("too many dials; ask again in a minute")
        with self._dialling.taken():
            try:
                async with asyncio.timeout(DIAL_S):
                    _, writer = await asyncio.open_connection(host, ask.port)
                    try:
                        writer.write(MAGIC + ask.nonce)
                        await writer.drain()
                    finally:
                        writer.close()
                        await writer.wait_closed()
            except (OSError, TimeoutError):
                return False
        return True
