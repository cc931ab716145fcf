"""Calls that are due at a time. No clock: the owner says what time it is."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Call = Callable[[float], None]


class Timer:
    """One call to come."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        """Do not call."""
        self.call = None


class Timers:
    """Calls in the order in which they are due; a call gets the time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()

    def at(self, due: float, call: Call) -> Timer:
        """Call `call` at `due` or soon after."""
        timer = Timer(call)
        heappush(self._heap, (due, next(self._numbers), timer))
        return timer

    def due(self) -> float | None:
        """When the next call is due, or None if there is none."""
        while self._heap and self._heap[0][2].call is None:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Make the calls that are due."""
        while (due := self.due()) is not None and due <= now:
            timer = heappop(self._heap)[2]
            call, timer.call = timer.call, None
            if call is not None:
                call(now)
