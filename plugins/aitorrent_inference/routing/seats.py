"""How many answers run at once: the others wait in line, as clients of model servers expect."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aitorrentd.api import Busy


class Seats:
    """A concurrency limit with a queue: first come, first served."""

    def __init__(self, limit: int, *, most_waiting: int = 0) -> None:
        self.limit = limit
        self.most_waiting = most_waiting
        self.used = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many stand in line."""
        return len(self._line)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold one seat while the block runs, once it is this caller's turn.

        Raises:
            Busy: all are taken, and the queue is full. Its text is part of the protocol between
            peers.
        """
        if self.used < self.limit:
            self.used += 1
        elif len(self._line) >= self.most_waiting:
            raise Busy("Too many requests", limit=self.limit, waiting=len(self._line))
        else:
            await self._turn()
        try:
            yield
        finally:
            self._leave()

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._line.remove(turn)
            else:
                self._leave()  # the seat was given to a caller that left at the same moment
            raise

    def _leave(self) -> None:
        """Give the seat to the next in line, or leave it empty."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.used -= 1
