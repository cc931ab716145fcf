"""Several answers to one request, as many at a time as there are places for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aitorrent_gateway.core.answers import TASK, Pieces
from aitorrentd.api import Busy, Chunk
from aitorrentd.api.tasks import beside

PAUSES_S: Final = (0.05, 0.2, 0.75)
"Before an answer asks again for the place of one that ended: it may be free a moment later."
MOST_WAIT_S: Final = 10
"A peer that is to be left alone for longer ends the request."
MOST_REFUSALS: Final = 16
"So does one that refuses so often, always for a while, and answers nothing meanwhile."

Source = Callable[[], AsyncGenerator[Chunk]]
Parts = Pieces[tuple[int, Chunk]]


@asynccontextmanager
async def all_ahead(sources: Sequence[Source], at_once: int) -> AsyncIterator[Parts]:
    """Run the answers of `sources` while the block runs, `at_once` of them at a time; their chunks
    come with the source's index. All are closed in any case, and the first that fails ends all.

    One that finds no place beside the others comes after them. If a peer says when it can be asked
    again, further ones are that far apart.
    """
    pieces = Parts()
    work = _Several(pieces, sources, at_once).run()
    async with beside(work, TASK) as pieces.task:
        pieces.task.add_done_callback(pieces.wake)
        yield pieces


class _Several:
    def __init__(self, pieces: Parts, sources: Sequence[Source], at_once: int) -> None:
        self._pieces, self._sources = pieces, sources
        self._waiting = deque(range(len(sources)))
        self._begun = set[int]()
        self._workers = min(at_once, len(sources))
        self._asking = self._refusals = 0
        self._gap_s = 0
        "Between the beginnings of two answers."
        self._next_s = 0.0
        "When the next one may begin, on the loop's clock."

    async def run(self) -> None:
        if len(self._sources) == 1:
            append = self._pieces.items.append
            await self._pieces.pour(self._sources[0](), lambda chunk: append((0, chunk)))
            return
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from None

    async def _answer(self, n: int) -> None:
        def add(chunk: Chunk) -> None:
            if not chunk.notice and n not in self._begun:
                self._begun.add(n)
                self._refusals = 0
            append((n, chunk))

        append = self._pieces.items.append
        self._asking += 1
        try:
            await self._pieces.pour(self._sources[n](), add)
        finally:
            self._asking -= 1

    async def _work(self) -> None:
        """Answer one after the other while any waits, and while there is a place."""
        pauses, has_had_place = iter(PAUSES_S), False
        while await self._turn():
            n = self._waiting.popleft()
            try:
                await self._answer(n)
            except Busy as e:
                if n in self._begun:
                    raise
                self._waiting.appendleft(n)
                if wait_s := _wait_of(e):
                    self._put_off(e, wait_s)
                    continue
                if self._workers > 1 and not has_had_place:  # fewer places than workers
                    break
                pause_s = next(pauses, None) if self._begun else None
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
                elif self._workers > 1:
                    break
                else:
                    raise
            else:
                pauses, has_had_place = iter(PAUSES_S), True
        self._workers -= 1

    def _put_off(self, error: Busy, wait_s: int) -> None:
        """Leave a peer alone that says so; raises the error if that leads nowhere."""
        self._refusals += 1
        is_hopeless = not self._begun or self._refusals > MOST_REFUSALS
        if wait_s > MOST_WAIT_S or (is_hopeless and not self._asking):
            raise error
        self._gap_s = max(self._gap_s, wait_s)
        self._next_s = max(self._next_s, asyncio.get_running_loop().time() + wait_s)

    async def _turn(self) -> bool:
        """Wait until another answer may begin; return whether one still waits then."""
        loop = asyncio.get_running_loop()
        while True:  # it may be put off meanwhile
            rest_s = self._next_s - loop.time()
            if rest_s <= 0:
                self._next_s = loop.time() + self._gap_s
                return bool(self._waiting)
            await asyncio.sleep(rest_s)


def _wait_of(error: Busy) -> int:
    """How many seconds to leave a peer alone; 0 if only a place is missing."""
    wait_s = error.data.get("retry_after_s")
    return wait_s if type(wait_s) is int else 0
