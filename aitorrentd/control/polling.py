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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio  # aitorrentctl starts without it

SPIN_S: Final = 80e-6
"The longest time to poll: about two wakeups, so a fruitless poll costs what a hit could save."
QUICK_S: Final = 200e-6
"A wait that might have fit into SPIN_S if neither end had slept."


@dataclass(frozen=True, slots=True)
class Polling:
    """When to poll, and for how long."""

    spin_s: float = SPIN_S
    quick_s: float = QUICK_S
    quick_first: int = 4
    "Short waits in a row before the first poll."
    quick_after_miss: int = 32
    "Fruitless polling costs at most one `spin_s` in this many waits."
    processors: int | None = None
    "How many this process may use; None asks the kernel."

    def pays(self) -> bool:
        """Whether to poll at all: on a single processor, polling delays the sender."""
        return (self.processors or len(os.sched_getaffinity(0))) > 1


POLLING: Final = Polling()


class Eagerness:
    """Whether the next wait on a connection is worth polling, judged by earlier waits."""

    __slots__ = ("_polling", "_quick_wanted")

    def __init__(self, polling: Polling = POLLING) -> None:
        self._polling = polling
        self._quick_wanted = polling.quick_first

    @property
    def is_high(self) -> bool:
        """Whether recent waits were short."""
        return not self._quick_wanted

    def note(self, waited_s: float) -> None:
        """Record how long a wait took, with or without sleep."""
        if not self._quick_wanted:
            if waited_s > self._polling.spin_s:
                self._quick_wanted = self._polling.quick_after_miss
        elif waited_s > self._polling.quick_s:
            self._quick_wanted = max(self._quick_wanted, self._polling.quick_first)
        else:
            self._quick_wanted -= 1


class WakefulLoop:
    """Keeps an event loop awake for `spin_s` after each request; other events are still served.

    A callback that schedules itself makes the loop poll without waiting, in uvloop and in asyncio,
    and every turn serves whatever else is ready.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        spin_s: float = SPIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.turns = 0
        "Loop iterations that this has caused since the start."
        self.is_awake = False
        self._until = 0.0
        self._spin_s = spin_s
        self._clock = clock
        self._loop = loop

    def extend(self, now: float) -> None:
        """Stay awake until `spin_s` after `now`, a reading of the clock."""
        self._until = now + self._spin_s
        if not self.is_awake:
            self.is_awake = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        self.is_awake = self._clock() < self._until
        if self.is_awake:
            self._loop.call_soon(self._turn)
