"""Background tasks with an owner: each has a name, none fails silently, and all end together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

CLOSE_S: Final = 5.0


class Tasks:
    """The tasks of one owner, which closes them before it goes.

    What an unexpected error does is the owner's choice. In a task group (a plugin's is
    `ctx.tasks`) it fails the group; with a logger it is logged with its traceback, and the other
    tasks go on.
    """

    def __init__(self, on_error: asyncio.TaskGroup | logging.Logger) -> None:
        self._group = on_error if isinstance(on_error, asyncio.TaskGroup) else None
        self._log = on_error if isinstance(on_error, logging.Logger) else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` until it ends or the owner closes."""
        home = asyncio.get_running_loop() if self._group is None else self._group
        task = home.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._closed:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._log is not None and not task.cancelled() and (error := task.exception()):
            self._log.error("task %s failed", task.get_name(), exc_info=error)

    def __len__(self) -> int:
        return len(self._tasks)

    def cancel(self) -> None:
        """Cancel what runs; what is spawned later is cancelled at once."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Cancel as `cancel` does, and wait for the tasks to end, at most `timeout_s`."""
        self.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T], name: str) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` while the block runs, then cancel it and wait for its end.

    For work that the block races against something: it looks at the outcome, and nobody else does.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: the other side of the race won
