"""Generations of the node, for readers that may be slow or leave.

    async with ahead(generated(request, inference)) as pieces:
        batch = await pieces.batch()

Whoever leaves the block ends the generation, also at the peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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
_AHEAD: Final = 256
"Pieces that wait for a slow client; then the generation waits."
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
    """What a generator yields, made ahead of its reader."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[T | None] = asyncio.Queue(_AHEAD)
        "None wakes the reader: the generator ended, or there was nothing for a while."
        self.task: asyncio.Task[None]
        self._given_s: float | None = None
        "When the last batch was given, on the loop's clock."
        self._is_fast = False
        "Whether the next batch may be awaited as a whole, not its first piece."

    def wake(self, _: object = None) -> None:
        """Let a waiting reader look again."""
        if not self.queue.full():
            self.queue.put_nowait(None)

    async def batch(self) -> list[T]:
        """All that is there; an empty list after `HEADERS_S` without anything at the first call,
        and after `KEEP_ALIVE_S` later.

        Raises:
            AitorrentError: why there is no more.
        """
        queue, found = self.queue, list[T]()
        loop, given_s = asyncio.get_running_loop(), self._given_s
        if self._is_fast and not self.task.done():
            await asyncio.wait((self.task,), timeout=REST_S)
        if queue.empty() and not self.task.done():
            # Cheaper than a timeout, for something that happens for each token.
            wait_s = HEADERS_S if given_s is None else KEEP_ALIVE_S
            timer = loop.call_later(wait_s, self.wake)
            try:
                item = await queue.get()
            finally:
                timer.cancel()
        else:
            item = None if queue.empty() else queue.get_nowait()
        now = self._given_s = loop.time()
        if given_s is not None:
            rest_s = given_s + REST_S - now
            # Waking for each first piece, too, would cost as much as sending it.
            self._is_fast = rest_s > 0 or (self._is_fast and not queue.empty())
            if rest_s > 0 and not self.task.done():
                await asyncio.wait((self.task,), timeout=rest_s)
                self._given_s = loop.time()
        while item is not None:
            found.append(item)
            if queue.empty():
                return found
            item = queue.get_nowait()
        if not found and self.task.done() and queue.empty():
            await self.task  # raises what ended it
            raise Unavailable("the answer ended without a reason")
        return found


@asynccontextmanager
async def ahead(*sources: AsyncGenerator[T]) -> AsyncIterator[Pieces[T]]:
    """Run generators at the same time while the block runs; they are closed in any case. The first
    that fails ends all."""
    pieces = Pieces[T]()
    async with beside(_fill(pieces.queue, sources), "gateway: answer") as pieces.task:
        pieces.task.add_done_callback(pieces.wake)
        yield pieces


async def _fill(queue: asyncio.Queue[T | None], sources: Sequence[AsyncGenerator[T]]) -> None:
    if len(sources) == 1:
        await _pour(queue, sources[0])
        return
    try:
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(_pour(queue, source))
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from None


async def _pour(queue: asyncio.Queue[T | None], items: AsyncGenerator[T]) -> None:
    async with aclosing(items):
        async for item in items:
            if queue.full():
                await queue.put(item)
            else:
                queue.put_nowait(item)
