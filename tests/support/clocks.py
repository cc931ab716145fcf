"""Clocks for tests: a manual one, and an event loop's clock that jumps.

When a `JumpLoop` has nothing to do but wait for a timer, its clock jumps to that time, like trio's
autojump clock: an hour of sleeping takes no time, and the order of events stays the same. It is for
code that depends on nothing outside its thread but the clock. Sockets and pipes are refused,
because the loop cannot know whether bytes are in flight; while the loop's executor is busy, time
stands still. Code with threads unknown to the loop (such as aiosqlite's) needs another loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


class FakeClock:
    """A clock that moves only when the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.epoch = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.epoch + self.now - 1000.0


class _JumpSelector(selectors.SelectSelector):
    """Waits by advancing `now`, unless an executor thread is busy."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.working = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self.get_map():  # the first is the loop's own wake-up socket
            raise RuntimeError("the clock of this loop jumps: it takes no sockets and no pipes")
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.working:
            return super().select(None)
        self.now += timeout
        return []


class JumpLoop(asyncio.SelectorEventLoop):
    """The loop of tests marked `jump_clock`."""

    def __init__(self) -> None:
        self._jumps = _JumpSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Seconds since the loop was created, as its tasks see them."""
        return self._jumps.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread; time stands still until it returns."""
        work = super().run_in_executor(executor, func, *args)
        self._jumps.working += 1
        work.add_done_callback(self._worked)
        return work

    def _worked(self, _: asyncio.Future[Any]) -> None:
        self._jumps.working -= 1


class LoopClock:
    """The clock of the running loop, for code that takes a clock."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        return 1_700_000_000.0 + asyncio.get_running_loop().time()
