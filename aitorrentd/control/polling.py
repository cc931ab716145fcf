"""Bounded busy polling: when to poll again for an imminent message instead of sleeping.

Sleeping until a byte arrives costs a wakeup, which between two processors of a virtual machine
takes longer than a whole call. So both ends of a connection poll for at most SPIN_S, and only while
recent waits on it were short: an idle connection, one with slow answers, or a machine with one
processor costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio  # aitorrentctl starts without it

SPIN_S: Final = 80e-6
"The longest time to poll: about two wakeups, so a fruitless poll costs what a hit could save."
QUICK_S: Final = 200e-6
"A wait that might have fit into SPIN_S if neither end had slept."
_QUICK_FIRST: Final = 4
_QUICK_AFTER_MISS: Final = 32
"Fruitless polling costs at most one SPIN_S in this many waits."


class Eagerness:
    """Whether the next wait on a connection is worth polling, judged by earlier waits."""

    __slots__ = ("_quick_wanted",)

    def __init__(self) -> None:
        self._quick_wanted = _QUICK_FIRST

    @property
    def is_high(self) -> bool:
        """Whether recent waits were short."""
        return not self._quick_wanted

    def note(self, waited_s: float) -> None:
        """Record how long a wait took, with or without sleep."""
        if not self._quick_wanted:
            if waited_s > SPIN_S:
                self._quick_wanted = _QUICK_AFTER_MISS
        elif waited_s > QUICK_S:
            self._quick_wanted = max(self._quick_wanted, _QUICK_FIRST)
        else:
            self._quick_wanted -= 1


def has_processors() -> bool:
    """Whether this process may use several processors: on one, polling delays the sender."""
    return len(os.sched_getaffinity(0)) > 1


class WakefulLoop:
    """Keeps an event loop awake for SPIN_S after each request; other events are still served.

    A callback that schedules itself makes the loop poll without waiting, in uvloop and in asyncio,
    and every turn serves whatever else is ready.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.turns = 0
        "Loop iterations that this has caused since the start."
        self.is_awake = False
        self._until = 0.0
        self._clock = clock
        self._loop = loop

    def extend(self, now: float) -> None:
        """Stay awake until SPIN_S after `now`, a reading of the clock."""
        self._until = now + SPIN_S
        if not self.is_awake:
            self.is_awake = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        self.is_awake = self._clock() < self._until
        if self.is_awake:
            self._loop.call_soon(self._turn)
