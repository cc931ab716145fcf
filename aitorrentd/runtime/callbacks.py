"""Callbacks on events, for programs that embed a node."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aitorrentd.api.events import Event, Lagged
from aitorrentd.api.tasks import Tasks

if TYPE_CHECKING:
    from aitorrentd.kernel.context.bus import EventBus

Callback = Callable[[Any], Awaitable[None] | None]


class Callbacks:
    """Calls back on events, each callback in its own task, in event order.

    A callback that raises is logged and stays registered; one that falls behind loses events, with
    a warning.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._bus: EventBus | None = None
        self._wanted: list[tuple[type[Event], Callback]] = []
        self._tasks = Tasks(log)
        self._running: dict[int, asyncio.Task[None]] = {}

    def add(self, kind: type[Event], callback: Callback) -> Callable[[], None]:
        """Call `callback` with each event of `kind` from now on; returns an unsubscribe
        function."""
        wanted = (kind, callback)
        self._wanted.append(wanted)
        if self._bus is not None:
            self._start(self._bus, wanted)

        def remove() -> None:
            if any(w is wanted for w in self._wanted):
                self._wanted = [w for w in self._wanted if w is not wanted]
            if (task := self._running.pop(id(wanted), None)) is not None:
                task.cancel()

        return remove

    def start(self, bus: EventBus) -> None:
        """Start calling back."""
        self._bus, self._tasks = bus, Tasks(self._log)
        for wanted in self._wanted:
            self._start(bus, wanted)

    async def stop(self) -> None:
        """Stop all tasks; callbacks stay registered for the next start."""
        self._bus = None
        self._running.clear()
        await self._tasks.close()

    def _start(self, bus: EventBus, wanted: tuple[type[Event], Callback]) -> None:
        kind, _ = wanted
        subscribed = contextlib.ExitStack()
        # Subscribed here and now, so that nothing is missed before the task first runs.
        events = subscribed.enter_context(bus.subscribe(kind))
        work = self._run(bus, wanted, subscribed, events)
        task = self._tasks.spawn(work, f"callback:{kind.__name__}")
        task.add_done_callback(lambda _: subscribed.close())
        self._running[id(wanted)] = task

    async def _run(
        self,
        bus: EventBus,
        wanted: tuple[type[Event], Callback],
        subscribed: contextlib.ExitStack,
        events: AsyncIterator[Event],
    ) -> None:
        kind, callback = wanted
        while True:
            async for event in events:
                if isinstance(event, Lagged) and kind is not Lagged:
                    text = "a callback on %s is too slow and missed %d events"
                    self._log.warning(text, kind.__name__, event.dropped)
                else:
                    await self._call(callback, event)
            subscribed.close()
            events = subscribed.enter_context(bus.subscribe(kind))

    async def _call(self, callback: Callback, event: Event) -> None:
        try:
            answer = callback(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # the fence of event handlers: a callback is the embedder's code
            self._log.exception("a callback on %s failed", type(event).__name__)
