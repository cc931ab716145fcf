"""Serves peers' calls: admission, slots, timeouts, and the end of work for a peer that left."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from aitorrent_inference.peers.generate_protocol import MAX_LINE_BYTES, error_line
from aitorrentd.api import (
    AitorrentError,
    Offence,
    PeerGone,
    PeerId,
    Protection,
    ProtocolError,
    Stream,
    TimedOut,
    TooLarge,
    short,
)
from aitorrentd.api.limits import Slots
from aitorrentd.api.relays import loops
from aitorrentd.api.tasks import beside

_REQUEST_TIMEOUT_S: Final = 30.0
# A client that reads nothing for this long loses its slot.
_WRITE_TIMEOUT_S: Final = 60.0
# After the client has closed its sending side, a reset no longer wakes a read.
_GONE_POLL_S: Final = 1.0


class PeerCalls(ABC):
    """Handler of a protocol in which a peer sends one line and gets several; `slots` limits how
    many are answered at once."""

    def __init__(
        self, slots: Slots, *, log: logging.Logger, protection: Callable[[], Protection | None]
    ) -> None:
        self.slots = slots
        self._log = log
        self._protection = protection

    @abstractmethod
    async def answer(self, stream: Stream, asked: bytes) -> None:
        """Write the answer to a line; what it raises is sent as the last line."""

    async def __call__(self, stream: Stream) -> None:
        """Answer a peer's request on `stream`, then close it."""
        loops.note(())  # the connection may have been made for a request of another node
        try:
            try:
                await self._serve(stream)
            except AitorrentError as e:
                if isinstance(e, PeerGone):
                    raise
                self._report(stream.peer, e)
                await write(stream, error_line(e))
            await stream.close()
        except PeerGone as e:
            self._log.debug("answer for peer %s: %s", short(stream.peer), e.message)
            stream.reset(e.message)

    def _report(self, peer: PeerId, error: AitorrentError) -> None:
        protection = self._protection()
        if isinstance(error, ProtocolError) and protection is not None:
            protection.report(peer, Offence.INVALID_MESSAGE, error.message)

    async def _serve(self, stream: Stream) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                line = await stream.read_line(MAX_LINE_BYTES)
        except TimeoutError:
            raise TimedOut(f"no request arrived within {_REQUEST_TIMEOUT_S:g} s") from None
        except TooLarge:
            raise ProtocolError(f"a request has at most {MAX_LINE_BYTES} bytes") from None
        if not line:
            raise PeerGone("closed before sending a request")
        if (protection := self._protection()) is not None:
            protection.admit_call(stream.peer)
        with self.slots.taken():
            await self._answer_until_gone(stream, line)

    async def _answer_until_gone(self, stream: Stream, line: bytes) -> None:
        """Answer the request; a client disconnect cancels the work immediately."""
        async with (
            beside(self.answer(stream, line), "answer for a peer") as answering,
            beside(_until_gone(stream), "watch a peer's stream") as watching,
        ):
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise PeerGone("the client went away")
        answering.result()


async def _until_gone(stream: Stream) -> None:
    """Return when the stream is reset or the peer sends more than the request."""
    excess = 0
    while excess <= MAX_LINE_BYTES:
        try:
            more = await stream.read()
        except PeerGone:
            return
        excess += len(more)
        if not more:
            await asyncio.sleep(_GONE_POLL_S)


async def write(stream: Stream, line: bytes) -> None:
    """Write a line of an answer.

    Raises:
        PeerGone: the peer does not read it.
    """
    try:
        async with asyncio.timeout(_WRITE_TIMEOUT_S):
            await stream.write(line)
    except TimeoutError:
        raise PeerGone(f"the client read nothing for {_WRITE_TIMEOUT_S:g} s") from None
