"""Drain: counts work in progress and decides whether new work may start.

A plugin wraps each piece of work that a caller waits for in `ctx.work("answer")`. While the node
drains that raises ShuttingDown; earlier work runs to its end.
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
    """Work items of one kind in progress."""

    plugin: str
    what: str
    "Singular, such as `answer`."
    count: int


class Drain:
    """Counts work in progress and refuses new work while `active`."""

    def __init__(self) -> None:
        self.active = False
        self._counts: Counter[tuple[str, str]] = Counter()
        self._waiting: set[asyncio.Future[None]] = set()

    @contextmanager
    def work(self, plugin: str, what: str) -> Iterator[None]:
        """Count a work item while the block runs.

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
        """Work in progress, by plugin and kind."""
        return tuple(Work(*key, count) for key, count in sorted(self._counts.items()))

    async def ended(
        self, timeout_s: float, told: Callable[[tuple[Work, ...]], None] = lambda _: None
    ) -> bool:
        """Wait at most `timeout_s` seconds until all work has ended or the drain is called off.

        `told` receives the remaining work, at once and after every change. True when none remains.
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
        """Refuse new work, or accept it again."""
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
    """`2 answers, 1 session`; `nothing` for no work."""
    parts = [f"{w.count} {w.what}{'s' * (w.count != 1)}" for w in works]
    return ", ".join(parts) or "nothing"
