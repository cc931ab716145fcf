"""A peer as a backend, queried over `/ai-torrent/1/generate` and its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from aitorrent_inference.peers.call_lines import CallReader
from aitorrent_inference.peers.generate_protocol import (
    MAX_ANSWER_CHARS,
    MAX_LINE_BYTES,
    PROTOCOL,
    decode_reply,
    encode_request,
)
from aitorrent_inference.peers.measure_protocol import (
    COUNT_TOKENS,
    EMBED,
    EmbedReader,
    decode_count,
    encode_embed_request,
)
from aitorrentd.api import (
    AitorrentError,
    Chunk,
    Embeddings,
    EmbedRequest,
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


@dataclass(slots=True)
class _Exchange:
    stream: Stream
    is_whole: bool = False
    "Whether the last line of the answer arrived."


class PeerBackend:
    """Answers prompts by asking one peer. Created per answer; holds no connection."""

    def __init__(
        self,
        peer: PeerId,
        transport: Transport,
        *,
        addresses: Sequence[str] = (),
        models: Callable[[], Sequence[ModelView]] = tuple,
        embedders: Callable[[], Sequence[ModelView]] = tuple,
        first_token_timeout_s: float = 120.0,
        token_timeout_s: float = 60.0,
    ) -> None:
        self.peer = peer
        self._transport = transport
        self._addresses = addresses
        self._models = models
        self._embedders = embedders
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
        async with (
            self._asked(PROTOCOL, encode_request(request)) as exchange,
            aclosing(self._chunks(exchange.stream)) as chunks,
        ):
            async for chunk in chunks:
                exchange.is_whole = chunk.done
                yield chunk

    async def count_tokens(self, request: GenerateRequest) -> int:
        """The peer's count."""
        async with self._asked(COUNT_TOKENS, encode_request(request)) as exchange:
            found = decode_count(await self._line(exchange.stream, self._first_token_timeout_s))
            if isinstance(found, AitorrentError):
                raise self._theirs(found)
            exchange.is_whole = True
            return found

    async def embedding_models(self) -> Sequence[ModelView]:
        """The models that the peer announced for this."""
        return self._embedders()

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The peer's vectors, each validated."""
        reader = EmbedReader(len(request.texts))
        wait_s = self._first_token_timeout_s
        async with self._asked(EMBED, encode_embed_request(request)) as exchange:
            while True:
                found = reader.read(await self._line(exchange.stream, wait_s))
                if isinstance(found, AitorrentError):
                    raise self._theirs(found)
                if found is not None:
                    exchange.is_whole = True
                    return found
                wait_s = self._token_timeout_s

    @asynccontextmanager
    async def _asked(self, protocol: str, line: bytes) -> AsyncIterator[_Exchange]:
        """A stream on which the request was sent; it is reset if the answer is not whole."""
        if len(line) > MAX_LINE_BYTES:
            raise InvalidParams(
                f"the request takes {len(line)} bytes as one line; "
                f"peers accept at most {MAX_LINE_BYTES}"
            )
        stream = await self._transport.open_stream(
            self.peer, protocol, timeout_s=10.0, addresses=self._addresses
        )
        exchange = _Exchange(stream)
        try:
            await self._timed(stream.write(line), self._first_token_timeout_s, "take the request")
            yield exchange
        finally:
            if exchange.is_whole:
                await stream.close()
            else:
                stream.reset("the answer is no longer needed")

    def _theirs(self, error: AitorrentError) -> AitorrentError:
        return type(error)(f"peer {short(self.peer)}: {error.message}", **error.data)

    async def _line(self, stream: Stream, wait_s: float) -> bytes:
        line = await self._timed(stream.read_line(MAX_LINE_BYTES), wait_s, "continue")
        if not line.endswith(b"\n"):
            raise PeerGone(
                f"peer {short(self.peer)} closed the stream before its answer was complete"
            )
        return line

    async def _chunks(self, stream: Stream) -> AsyncGenerator[Chunk, None]:
        wait_s = self._first_token_timeout_s
        chars, calls = 0, CallReader()
        while True:
            reply = decode_reply(await self._line(stream, wait_s), calls)
            if not isinstance(reply, Chunk):
                raise self._theirs(reply)
            chars += len(reply.text) + len(reply.thinking) + len(reply.logprobs)
            if chars + calls.chars > MAX_ANSWER_CHARS:
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
