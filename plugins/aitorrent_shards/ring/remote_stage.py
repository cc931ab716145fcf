"""The coordinator's end of one stage: its control stream, and what is known about it."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from typing import Any, Final

from aitorrent_shards.protocol.messages import (
    MAX_CONTROL_BYTES,
    PROTOCOL,
    SESSION_BYTES,
    Open,
    open_header,
    parse_have,
    parse_queue,
    request_id,
)
from aitorrent_shards.routing.planner import Leg
from aitorrentd.api import (
    AitorrentError,
    Frame,
    InvalidParams,
    PeerGone,
    PeerId,
    ProtocolError,
    Stream,
    TimedOut,
    TooLarge,
    Transport,
    Unavailable,
    called,
    error_from_map,
    frame_head,
    read_frame,
    short,
)
from aitorrentd.api.tasks import Tasks

GONE_AVOID_S: Final = 3.0
"A peer whose stream just ended may be used again after this; it may have reconnected."
FOREVER: Final = math.inf


def refuses_request(error: AitorrentError) -> bool:
    """Whether a stage's error concerns the request, so that any other holder would refuse it
    too."""
    return isinstance(error, (InvalidParams, TooLarge))


class StageControl:
    """A stage of an answer. Once lost, with a reason, it never comes back.

    A stage that refuses the request is not lost: it works, but the answer ends.
    """

    def __init__(
        self,
        leg: Leg,
        prev: PeerId,
        transport: Transport,
        tasks: Tasks,
        on_change: Callable[[], None],
        *,
        vocab: int,
    ) -> None:
        self.span, self.start, self.end = leg.span, leg.start, leg.end
        self.session = secrets.token_bytes(SESSION_BYTES)
        self.prev = prev
        self.linked_to: bytes | None = None
        "The session that it sends its output to."
        self.lost = ""
        "Why it is lost; empty until then."
        self.refusal: AitorrentError | None = None
        "Why the stage refuses the request."
        self.who = short(self.peer)
        "The peer for display: with its name once known, even after it is gone."
        self.avoid_s = 0.0
        "How long to avoid its holder."
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        "Done once the stage is lost or closed."
        self._transport, self._tasks, self._on_change = transport, tasks, on_change
        self._max_bytes = MAX_CONTROL_BYTES + 8 * vocab
        self._stream: Stream | None = None
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[Frame]] = {}

    @property
    def peer(self) -> PeerId:
        """The node that computes it."""
        return self.span.peer

    async def open(self, *, max_positions: int, prompt_positions: int, timeout_s: float) -> None:
        """Open the session.

        Raises:
            Busy: no room there now. NotFound: the holder lacks the layers (or dropped them).
            Unavailable: not reachable. TimedOut: no answer.
        """
        span = self.span
        try:
            self._stream = await self._transport.open_stream(
                self.peer, PROTOCOL, timeout_s=timeout_s, addresses=span.addresses
            )
            if (view := self._transport.peer(self.peer)) is not None:
                self.who = called(self.peer, view.name)
            self._tasks.spawn(self._read(self._stream), "shards-stage")
            opened = Open(
                session=self.session,
                digest=span.digest,
                dtype=span.dtype,
                start=self.start,
                end=self.end,
                max_positions=max_positions,
                prev=self.prev,
                last=self.end == span.layers,
                prompt=prompt_positions,
            )
            await self.ask(open_header(opened), timeout_s=timeout_s)
        except AitorrentError as e:
            if not self._refuse(e):
                self.lose(e.message, avoid_s=GONE_AVOID_S)
            raise

    async def ask(self, header: dict[str, Any], *, timeout_s: float) -> Frame:
        """Send a request and wait for its answer.

        Raises:
            Unavailable: the stage is lost. TimedOut: no answer. Other AitorrentErrors: as answered.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.lost or self._stream is None:
            raise Unavailable(self.lost or "the stage is not open")
        ident, self._next_id = self._next_id, self._next_id + 1
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[ident] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._stream.write(frame_head({**header, "id": ident}, 0))
                return await answer
        except TimeoutError:
            raise TimedOut(f"no answer to {header['op']} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(ident, None)
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # it may have been lost before anyone waited

    async def ping(self, *, timeout_s: float) -> tuple[int, int] | None:
        """(positions computed, steps queued); None without an answer, and the stage is lost."""
        try:
            header = (await self.ask({"op": "ping"}, timeout_s=timeout_s)).header
            return parse_have(header), parse_queue(header)
        except TimedOut:
            self.lose(f"it hangs: no answer to a ping within {timeout_s:g} s", avoid_s=FOREVER)
        except AitorrentError as e:
            self.lose(e.message, avoid_s=GONE_AVOID_S)
        return None

    def lose(self, reason: str, *, avoid_s: float) -> None:
        """Give the stage up."""
        if self.lost or self.refusal is not None:
            return
        self.lost, self.avoid_s = reason or "it ended", avoid_s
        self.close()
        self._on_change()

    def _refuse(self, error: AitorrentError) -> bool:
        """End the stage if `error` refuses the request."""
        if not refuses_request(error):
            return False
        if not self.lost and self.refusal is None:
            self.refusal = error
            self.close()
            self._on_change()
        return True

    def close(self) -> None:
        """End the session at the stage."""
        if not self.gone.done():
            self.gone.set_result(None)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    self.refusal or Unavailable(self.lost or "the stage was closed")
                )
        if self._stream is not None:
            self._stream.reset("the session has ended")

    async def _read(self, stream: Stream) -> None:
        try:
            while True:
                self._take(await read_frame(stream, max_bytes=self._max_bytes))
        except PeerGone as e:
            self.lose(e.message or "its connection was closed", avoid_s=GONE_AVOID_S)
        except ProtocolError as e:
            self.lose(f"it broke the protocol: {e.message}", avoid_s=FOREVER)

    def _take(self, frame: Frame) -> None:
        header = frame.header
        match header.get("event"):
            case "failed":
                error = error_from_map(header.get("error"))
                if not self._refuse(error):
                    self.lose(error.message, avoid_s=GONE_AVOID_S)
            case "unlinked":
                self.linked_to = None
                self._on_change()
            case None:
                answer = self._waiting.get(request_id(header))
                if answer is None or answer.done():
                    return
                if "error" in header:
                    answer.set_exception(error_from_map(header["error"]))
                else:
                    answer.set_result(frame)
            case _:
                return  # a later version may say more
