"""One run of a plugin: from entering its lifespan to leaving it.

Everything that the plugin starts lives in one task and its TaskGroup. No exception raised there
gets past `Run.error`, SystemExit and KeyboardInterrupt included: asyncio would let those two end
the event loop, and with it every other plugin.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from aitorrentd.api.plugin import SkipPlugin
from aitorrentd.errors import ConfigError, PluginError
from aitorrentd.kernel.context.context import Context
from aitorrentd.kernel.hooks import Misdeclared
from aitorrentd.kernel.reasons import leaves
from aitorrentd.kernel.states import PluginState

T = TypeVar("T")


class PluginTasks(asyncio.TaskGroup):
    """A TaskGroup whose tasks cannot end the event loop, and which can be told to stop."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._owner = owner
        self._alive: set[asyncio.Task[Any]] = set()

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """As in asyncio; the name is prefixed with the plugin's."""
        if not isinstance(coro, Coroutine):
            raise TypeError(f"a coroutine was expected, got {type(coro).__name__}")
        label = f"{self._owner}:{name or getattr(coro, '__name__', 'task')}"
        fenced = _fenced(coro, label)
        try:
            task = super().create_task(fenced, name=label, context=context)
        except BaseException:
            fenced.close()
            coro.close()
            raise
        self._alive.add(task)
        task.add_done_callback(self._alive.discard)
        # a task cancelled before its first step never reaches `coro`, which must then be closed
        task.add_done_callback(lambda _: coro.close())
        return task

    def cancel_rest(self) -> None:
        """Cancel the remaining tasks."""
        for task in list(self._alive):
            task.cancel()

    def __len__(self) -> int:
        return len(self._alive)


async def _fenced(coro: Coroutine[Any, Any, T], label: str) -> T:
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as e:
        raise PluginError(f"task {label} raised {type(e).__name__}") from e


class Run:
    """One run of a plugin. `begin()` starts it; `done` and `error` tell how it ended."""

    def __init__(
        self,
        context: Context,
        tasks: PluginTasks,
        *,
        enter: Callable[[], AbstractAsyncContextManager[None]],
        declare: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """`declare` is called once the lifespan is entered; `changed` after every change."""
        self.context = context
        self.started = False
        self.error: BaseException | None = None
        self._tasks = tasks
        self._enter = enter
        self._declare = declare
        self._changed = changed
        self._stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Nothing of the plugin is running any more."""
        return self.task is not None and self.task.done()

    def begin(self) -> asyncio.Task[None]:
        """Start; the caller owns the task, which never raises."""
        self.task = asyncio.create_task(self._main(), name=f"plugin:{self.context.name}")
        self.task.add_done_callback(lambda _: self._changed())
        return self.task

    def ask_to_stop(self) -> None:
        """Leave the lifespan; if it is still being entered, cancel it."""
        self._stop.set()
        if not self.started:
            self.cancel()

    def cancel(self) -> None:
        """Cancel whatever runs; may be repeated if the plugin swallows it."""
        if self.task is not None:
            self.task.cancel()
        self._tasks.cancel_rest()

    async def _main(self) -> None:
        try:
            async with self._tasks:
                try:
                    await self._live()
                finally:
                    self._tasks.cancel_rest()
        except BaseException as e:
            self.error = e
        finally:
            self.context.end()
        try:
            await self.context.close_workers()
        except BaseException as e:
            self.error = self.error or e

    async def _live(self) -> None:
        async with self._enter():
            # a lifespan that swallowed the cancellation of its start still arrives here
            if self._stop.is_set():
                return
            self._declare()
            self.started = True
            self._changed()
            await self._stop.wait()


def verdict(error: BaseException) -> PluginState:
    """The state for an error that ended a run: only FAILED is worth a retry."""
    found = leaves(error)
    for kind, state in (
        (Misdeclared, PluginState.BROKEN),
        (ConfigError, PluginState.INVALID),
    ):
        if any(isinstance(leaf, kind) for leaf in found):
            return state
    if all(isinstance(leaf, SkipPlugin) for leaf in found):
        return PluginState.SKIPPED
    return PluginState.FAILED
