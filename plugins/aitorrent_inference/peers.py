"""A peer as a backend, queried over `/ai-torrent/1/generate`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from aitorrent_inference.generate_protocol import (
    MAX_ANSWER_CHARS,
    MAX_LINE_BYTES,
    PROTOCOL,
    decode_reply,
    encode_request,
)
from aitorrentd.api import (
    Chunk,
    GenerateRequest,
    InvalidParams,
    ModelView,
    PeerGone,
    PeerId,
    ProtocolError,
    Stream,
    TimedOut,
    TooLarge,
    Transport,
    short,
)

T = TypeVar("T")


class PeerBackend:
    """Answers prompts by asking one peer. Created per answer; holds no connection."""

    def __init__(
        self,
        peer: PeerId,
        transport: Transport,
        *,
        addresses: Sequence[str] = (),
        models: Callable[[], Sequence[ModelView]] = tuple,
        first_token_timeout_s: float = 120.0,
        token_timeout_s: float = 60.0,
    ) -> None:
        self.peer = peer
        self._transport = transport
        self._addresses = addresses
        self._models = models
        self._first_token_timeout_s = first_token_timeout_s
        self._token_timeout_s = token_timeout_s

    @property
    def name(self) -> str:
        """`peer:<id>`."""
        return f"peer:{self.peer}"

    async def models(self) -> Sequence[ModelView]:
        """The models that the peer announced."""
        return self._models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        """Stream the peer's answer, validating each line. Closing the iterator resets the stream,
        which stops the peer's work."""
        line = encode_request(request)
        if len(line) > MAX_LINE_BYTES:
            raise InvalidParams(
                f"the request takes {len(line)} bytes as one line; "
                f"peers accept at most {MAX_LINE_BYTES}"
            )
        stream = await self._transport.open_stream(
            self.peer, PROTOCOL, timeout_s=10.0, addresses=self._addresses
        )
        finished = False
        try:
            async with aclosing(self._lines(stream, line)) as chunks:
                async for chunk in chunks:
                    finished = chunk.done
                    yield chunk
        finally:
            if finished:
                await stream.close()
            else:
                stream.reset("the answer is no longer needed")

    async def _lines(self, stream: Stream, request: bytes) -> AsyncGenerator[Chunk, None]:
        wait_s = self._first_token_timeout_s
        chars = 0
        await self._timed(stream.write(request), wait_s, "take the request")
        while True:
            line = await self._timed(stream.read_line(MAX_LINE_BYTES), wait_s, "continue")
            if not line.endswith(b"\n"):
                raise PeerGone(
                    f"peer {short(self.peer)} closed the stream before its answer was complete"
                )
            reply = decode_reply(line)
            if not isinstance(reply, Chunk):
                raise type(reply)(f"peer {short(self.peer)}: {reply.message}")
            chars += len(reply.text) + len(reply.thinking) + len(reply.logprobs)
            if chars > MAX_ANSWER_CHARS:
                raise ProtocolError(f"peer {short(self.peer)} sent over {MAX_ANSWER_CHARS} chars")
            yield reply
            if reply.done:
                return
            wait_s = self._token_timeout_s

    async def _timed(self, wait: Awaitable[T], limit_s: float, what: str) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await wait
        except TimeoutError:
            raise TimedOut(f"peer {short(self.peer)} did not {what} within {limit_s:g} s") from None
        except TooLarge:
            raise ProtocolError(f"peer {short(self.peer)} sent a line that is too long") from None
