"""Background tasks with an owner: each is named, none fails silently, and all end together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

CLOSE_S: Final = 5.0
"Seconds that `Tasks.close` waits by default."


class Tasks:
    """The tasks of one owner, which closes them before it ends.

    The owner decides what an unexpected error does. In a task group (a plugin's is `ctx.tasks`) it
    fails the group; with a logger it is logged with its traceback, and the other tasks continue.
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
        """Cancel running tasks; tasks spawned later are cancelled at once."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()

    async def close(self, timeout_s: float = CLOSE_S) -> None:
        """Like `cancel`, but wait at most `timeout_s` for the tasks to end."""
        self.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T], name: str) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` while the block runs, then cancel it and wait for its end.

    For work that the block races against something else: only the block looks at the outcome.
    """
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: the other side of the race won


async def uninterrupted(work: Coroutine[Any, Any, T], undo: Callable[[T], object]) -> T:
    """The result of `work`, which runs to its end even if this task is cancelled meanwhile.

    What it made is then passed to `undo`, and the cancellation goes on. For short work that loses
    what it made if it is cancelled halfway, such as the opening of a socket.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            undo(task.result())
        raise
