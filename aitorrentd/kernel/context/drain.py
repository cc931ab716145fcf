"""Drain: what is under way, and whether anything new may begin.

A plugin wraps each piece of work that somebody waits for in `ctx.work("answer")`. While the node
drains that raises ShuttingDown; what began before is left to end.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aitorrentd.errors import ShuttingDown


@dataclass(frozen=True, slots=True)
class Work:
    """Pieces of one kind of work that are under way."""

    plugin: str
    what: str
    "In the singular, such as `answer`."
    count: int


class Drain:
    """Counts work under way and keeps new work out while `active`."""

    def __init__(self) -> None:
        self.active = False
        self._counts: Counter[tuple[str, str]] = Counter()
        self._waiting: set[asyncio.Future[None]] = set()

    @contextmanager
    def work(self, plugin: str, what: str) -> Iterator[None]:
        """Count a piece of work while the block runs.

        Raises:
            ShuttingDown: the node is draining.
        """
        if self.active:
            raise ShuttingDown("the node is draining and takes no new work; ask another node")
        key = (plugin, what)
        self._counts[key] += 1
        self._tell()
        try:
            yield
        finally:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]
            self._tell()

    def under_way(self) -> tuple[Work, ...]:
        """What is under way now, by plugin and kind."""
        return tuple(Work(*key, count) for key, count in sorted(self._counts.items()))

    async def ended(
        self, timeout_s: float, told: Callable[[tuple[Work, ...]], None] = lambda _: None
    ) -> bool:
        """Wait until nothing is under way or the drain is called off, at most `timeout_s` seconds.

        `told` hears what is left, first at once and then after every change. True when nothing
        is under way.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    told(self.under_way())
                    if not self._counts or not self.active:
                        break
                    await self._changed()
        except TimeoutError:
            pass
        return not self._counts

    def switch(self, active: bool) -> None:
        """Keep new work out, or let it in again."""
        self.active = active
        self._tell()

    async def _changed(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _tell(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


def work_text(works: tuple[Work, ...]) -> str:
    """`2 answers, 1 session`; `nothing` when there is none."""
    parts = [f"{w.count} {w.what}{'s' * (w.count != 1)}" for w in works]
    return ", ".join(parts) or "nothing"
