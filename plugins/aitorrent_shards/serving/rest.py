"""When the layers of a holder leave memory, and when they return.

They never leave while somebody uses them: an answer of this node, a session of a peer, or the
worker that loads them. They leave when they were told to, or when nobody used them for as long as
they were to be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aitorrentd.api import Clock


class Rest:
    """Whether one holder's layers shall be in memory."""

    def __init__(self, clock: Clock, on_begin: Callable[[], None]) -> None:
        """`on_begin` is called when the rest begins, before anybody else can use the layers."""
        self.keep_s: float | None = None
        "Seconds without use after which the layers leave memory; None = they stay."
        self.is_leaving = False
        "Whether they leave memory as soon as nobody uses them."
        self.is_resting = False
        "Whether they left memory, or are about to: nobody may use them."
        self.users = 0
        self._clock, self._on_begin = clock, on_begin
        self._free_since = clock.monotonic()
        self._changed = asyncio.Event()

    def left_s(self) -> float | None:
        """Seconds until the layers leave memory, if nobody uses them; None = they stay."""
        if self.is_leaving:
            return 0.0
        if self.keep_s is None or self.users:
            return self.keep_s
        return max(0.0, self._free_since + self.keep_s - self._clock.monotonic())

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the layers from leaving while the block runs."""
        self.take()
        try:
            yield
        finally:
            self.release()

    def take(self) -> None:
        """Count a user."""
        self.users += 1

    def release(self) -> None:
        """A user is gone."""
        self.users -= 1
        self._free_since = self._clock.monotonic()
        self._changed.set()

    def keep(self, idle_s: float | None) -> None:
        """Let the layers leave after so many seconds without use, or stay; those that left already
        are not affected."""
        if self.is_resting:
            return
        self.keep_s, self.is_leaving = idle_s, False
        self._free_since = self._clock.monotonic()
        self._changed.set()

    def leave(self) -> None:
        """Let the layers leave as soon as nobody uses them."""
        self.is_leaving = True
        self._changed.set()

    def come(self) -> None:
        """Let the layers stay, or return."""
        self.is_leaving = False
        self._changed.set()

    async def begun(self) -> None:
        """Wait until the layers leave memory."""
        while self.users or self.left_s() != 0.0:
            self._changed.clear()
            wait_s = None if self.users else self.left_s()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue
        # What holds for one stay in memory does not hold for the next.
        self.is_resting, self.is_leaving, self.keep_s = True, True, None
        self._on_begin()

    async def over(self) -> None:
        """Wait until somebody wants the layers again."""
        while self.is_leaving:
            self._changed.clear()
            await self._changed.wait()
        self.is_resting = False
