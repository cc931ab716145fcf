"""Concurrent answers: the first to produce output wins, the others are closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from aitorrentd.api import AitorrentError, Chunk, Unavailable

_AHEAD: Final = 16  # chunks that a lane may be ahead of its reader


class Lane:
    """One answer, read by its own task into a bounded queue."""

    def __init__(self, name: str, chunks: AsyncIterator[Chunk]) -> None:
        self.name = name
        self._queue: asyncio.Queue[Chunk] = asyncio.Queue(_AHEAD)
        self._task = asyncio.create_task(self._read(chunks), name=f"answer by {name}")

    async def _read(self, chunks: AsyncIterator[Chunk]) -> None:
        try:
            async for chunk in chunks:
                await self._queue.put(chunk)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def next(self) -> Chunk | None:
        """The next chunk, or None at the end; raises the answer's error."""
        if self._queue.empty():
            getting = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait({getting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    return getting.result()
            finally:
                getting.cancel()
        if not self._queue.empty():
            return self._queue.get_nowait()
        self._task.result()
        return None

    def cancel(self) -> None:
        """Stop the answer."""
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until the backend has stopped."""
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()


def speaks(chunk: Chunk) -> bool:
    """Whether the chunk is more than an empty keepalive."""
    has_words = chunk.text or chunk.thinking or chunk.tool_calls or chunk.call_parts
    return bool(has_words or chunk.token_ids or chunk.done)


_FirstWord = tuple[Lane, Chunk | None]


async def _first_word(lane: Lane) -> _FirstWord:
    while (chunk := await lane.next()) is not None and not speaks(chunk):
        pass
    return lane, chunk


class Race:
    """Answers of which the first to produce output is taken."""

    def __init__(self, names: Sequence[str], answers: Sequence[AsyncIterator[Chunk]]) -> None:
        self.winner = 0
        "The index of the answer whose chunks are yielded."
        self._names, self._answers = names, answers

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """The chunks of the first answer to produce output.

        An answer that fails or ends without output is out of the race; if all are, the first error
        is raised. After the first output the winner's error is raised unchanged.
        """
        lanes = list(map(Lane, self._names, self._answers))
        first_words = [asyncio.create_task(_first_word(lane)) for lane in lanes]
        try:
            winner, chunk = await _winner(first_words)
            self.winner = lanes.index(winner)
            await _end(first_words, [lane for lane in lanes if lane is not winner])
            while chunk is not None:
                yield chunk
                chunk = await winner.next()
        finally:
            await _end(first_words, lanes)


async def _winner(first_words: Sequence[asyncio.Task[_FirstWord]]) -> _FirstWord:
    pending = set(first_words)
    failure: AitorrentError | None = None
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in (t for t in first_words if t in done):
            try:
                lane, chunk = task.result()
            except AitorrentError as e:
                failure = failure or e
            else:
                if chunk is not None:
                    return lane, chunk
    raise failure or Unavailable("every backend returned an empty answer")


async def _end(first_words: Sequence[asyncio.Task[_FirstWord]], lanes: Sequence[Lane]) -> None:
    for task in first_words:
        task.cancel()
    for lane in lanes:
        lane.cancel()
    await asyncio.wait(first_words)
    for task in first_words:
        if not task.cancelled():
            task.exception()  # retrieved and dropped: errors of losers are irrelevant
    for lane in lanes:
        await lane.ended()
