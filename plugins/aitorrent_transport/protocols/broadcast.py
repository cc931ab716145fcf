"""Broadcast messages: UTF-8 text on one short `/ai-torrent/1/message` stream each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aitorrentd.api import (
    AitorrentError,
    Busy,
    InvalidParams,
    MessageReceived,
    PeerId,
    PluginContext,
    Priority,
    ProtocolError,
    Stream,
    TimedOut,
    WireProtocol,
    short,
)
from aitorrentd.api.limits import PerPeer, TokenBucket

PROTOCOL: Final = "/ai-torrent/1/message"
MAX_CHARS: Final = 4096
_MAX_BYTES: Final = 4 * MAX_CHARS
PER_MINUTE: Final = 100
PER_HOUR: Final = 1000
_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 32

Open = Callable[[PeerId, str], Awaitable[Stream]]


def check_text(text: str) -> bytes:
    """The bytes of a message.

    Raises:
        InvalidParams: empty, too long, or not encodable.
    """
    if not text or len(text) > MAX_CHARS:
        raise InvalidParams(f"a message has 1 to {MAX_CHARS} characters, got {len(text)}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidParams("a message must not contain unpaired surrogates") from None


def read_text(raw: bytes) -> str:
    """Decode a message from a peer.

    Raises:
        ProtocolError: not UTF-8, empty or too long.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError("a message that is not UTF-8") from None
    if not text or len(text) > MAX_CHARS:
        raise ProtocolError(f"a message of {len(text)} characters; the limit is 1 to {MAX_CHARS}")
    return text


async def _read_all(stream: Stream) -> bytes:
    raw = bytearray()
    while part := await stream.read(_MAX_BYTES):
        raw += part
        if len(raw) > _MAX_BYTES:
            raise ProtocolError(f"a message of more than {_MAX_BYTES} bytes")
    return bytes(raw)


class Messages:
    """Sends messages to peers and publishes received ones, rate-limited per peer."""

    def __init__(self, ctx: PluginContext, open_stream: Open) -> None:
        self._ctx = ctx
        self._open = open_stream
        now = ctx.clock.monotonic
        self._minutes = PerPeer(lambda: TokenBucket(PER_MINUTE / 60, PER_MINUTE, now()))
        self._hours = PerPeer(lambda: TokenBucket(PER_HOUR / 3600, PER_HOUR, now()))

    def protocol(self) -> WireProtocol:
        """The wire protocol on which peers send messages."""
        return WireProtocol(PROTOCOL, self._receive, max_streams=8, priority=Priority.CONTROL)

    async def _receive(self, stream: Stream) -> None:
        now = self._ctx.clock.monotonic()
        if not (self._minutes.of(stream.peer).take(now) and self._hours.of(stream.peer).take(now)):
            raise Busy(f"more than {PER_MINUTE} messages per minute or {PER_HOUR} per hour")
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                raw = await _read_all(stream)
        except TimeoutError:
            raise TimedOut(f"no complete message within {_TIMEOUT_S:g} s") from None
        self._ctx.publish(MessageReceived(stream.peer, read_text(raw)))

    async def broadcast(self, text: str, peers: list[PeerId]) -> int:
        """Send `text` to each of `peers`; return how many accepted it.

        Raises:
            InvalidParams: not a valid message.
        """
        raw = check_text(text)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def send(peer: PeerId) -> bool:
            async with gate:
                return await self._send(peer, raw)

        async with asyncio.TaskGroup() as group:
            sends = [group.create_task(send(peer)) for peer in peers]
        return sum(task.result() for task in sends)

    async def _send(self, peer: PeerId, raw: bytes) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                stream = await self._open(peer, PROTOCOL)
                try:
                    await stream.write(raw)
                    await stream.close_write()
                    # The peer closes its side on acceptance, or resets with a reason.
                    await stream.read(1)
                    await stream.close()
                except BaseException:
                    stream.reset("gave up")
                    raise
        except (AitorrentError, TimeoutError) as e:
            self._ctx.log.info("message to %s not delivered: %s", short(peer), e)
            return False
        return True
