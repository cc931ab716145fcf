"""Generations of the node, for readers that may be slow or leave.

    async with ahead(generated(request, inference)) as pieces:
        batch = await pieces.batch()

Whoever leaves the block ends the generation, also at the peers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final, Generic, TypeVar

from aitorrent_gateway.core.errors import room_left
from aitorrentd.api import AitorrentError, Chunk, GenerateRequest, Inference, Unavailable
from aitorrentd.api.tasks import beside

HEADERS_S: Final = 1.0
"How long a stream's headers wait for the first piece: an error before them has its own status."
KEEP_ALIVE_S: Final = 10.0
"A stream without a piece for so long tells its client that it is alive."
KEEP_ALIVE: Final = b": keep-alive\n\n"
"A comment between events, which clients skip (HTML standard, section 9.2.6)."
REST_S: Final = 0.01
"""A stream that is faster than this is sent in larger pieces: nobody sees the difference, and many
streams together have room."""
TASK: Final = "gateway: answer"
_AHEAD: Final = 256
"Pieces that wait for a slow client; then the generation waits."
S = TypeVar("S")
T = TypeVar("T")


async def generated(request: GenerateRequest, inference: Inference) -> AsyncGenerator[Chunk]:
    """The answer's chunks, up to the one that is `done`. A `max_tokens` beyond the model's context
    is lowered, once, to what has room: agents send 32,000 to every model.

    Raises:
        AitorrentError: as `Inference.generate`.
        Unavailable: the answer ended without a reason.
    """
    may_lower = True
    while True:
        chunks = inference.generate(request)
        try:
            async for chunk in chunks:
                if may_lower and not chunk.notice:
                    may_lower = False
                yield chunk
                if chunk.done:
                    return
            raise Unavailable("the answer ended without a reason")
        except AitorrentError as e:
            room = room_left(e) if may_lower else None
            if room is None:
                raise
            may_lower = False
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        params = request.params.model_copy(update={"max_tokens": room})
        request = request.model_copy(update={"params": params})


class Pieces(Generic[T]):
    """What generators yield, made ahead of its reader."""

    def __init__(self) -> None:
        self.items = deque[T]()
        "Made and not read."
        self.task: asyncio.Task[None]
        self._reader: asyncio.Future[None] | None = None
        "Of a reader that waits for the next item, or for the end."
        self._room = asyncio.Event()
        self._given_s: float | None = None
        "When the last batch was given, on the loop's clock."
        self._is_fast = False
        "Whether the next batch may be awaited as a whole, not its first piece."

    def wake(self, _: object = None) -> None:
        """Let a waiting reader look again."""
        if self._reader is not None:
            if not self._reader.done():
                self._reader.set_result(None)
            self._reader = None

    async def pour(self, source: AsyncGenerator[S], add: Callable[[S], None]) -> None:
        """Have `add` put what a generator yields into `items`; wait while the reader is slow."""
        items = self.items
        async with aclosing(source):
            async for item in source:
                add(item)
                if self._reader is not None:
                    self.wake()
                if len(items) >= _AHEAD:
                    await self._until_room()

    async def _until_room(self) -> None:
        while len(self.items) >= _AHEAD:
            self._room.clear()
            await self._room.wait()

    async def batch(self) -> list[T]:
        """All that is there; an empty list after `HEADERS_S` without anything at the first call,
        and after `KEEP_ALIVE_S` later.

        Raises:
            AitorrentError: why there is no more.
        """
        loop, given_s = asyncio.get_running_loop(), self._given_s
        if self._is_fast and not self.task.done():
            await asyncio.wait((self.task,), timeout=REST_S)
        if not self.items and not self.task.done():
            await self._until_item(HEADERS_S if given_s is None else KEEP_ALIVE_S)
        now = self._given_s = loop.time()
        if given_s is not None:
            rest_s = given_s + REST_S - now
            # Waking for each first piece, too, would cost as much as sending it.
            self._is_fast = rest_s > 0 or (self._is_fast and len(self.items) > 1)
            if rest_s > 0 and not self.task.done():
                await asyncio.wait((self.task,), timeout=rest_s)
                self._given_s = loop.time()
        found = list(self.items)
        self.items.clear()
        self._room.set()
        if not found and self.task.done():
            await self.task  # raises what ended it
            raise Unavailable("the answer ended without a reason")
        return found

    async def _until_item(self, wait_s: float) -> None:
        # Cheaper than a timeout, for something that happens for each token.
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = loop.call_later(wait_s, self.wake)
        try:
            await self._reader
        finally:
            timer.cancel()
            self._reader = None


@asynccontextmanager
async def ahead(source: AsyncGenerator[T]) -> AsyncIterator[Pieces[T]]:
    """Run a generator while the block runs; it is closed in any case."""
    pieces = Pieces[T]()
    async with beside(pieces.pour(source, pieces.items.append), TASK) as pieces.task:
        pieces.task.add_done_callback(pieces.wake)
        yield pieces
