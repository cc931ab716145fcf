"""How late the event loop runs: a ticker that measures its own delay."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from aitorrentd.api.monitoring.families import histogram
from aitorrentd.api.monitoring.metrics import Histogram

TICK_S: Final = 0.25
_KEEP_S: Final = 60.0
_WARN_S: Final = 1.0
_WARN_EVERY_S: Final = 30.0

LAG: Final = histogram(
    "aitorrent_loop_lag_seconds", "How late the event loop ran, measured four times a second."
)


class LoopLag:
    """Delays of the event loop over the last minute."""

    def __init__(
        self, log: logging.Logger, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._monotonic = monotonic
        self._lags: deque[tuple[float, float]] = deque(maxlen=int(_KEEP_S / TICK_S))
        self._warned_at = float("-inf")
        self.seconds = Histogram(LAG)
        "All delays since the start."

    def worst_s(self, within_s: float = _KEEP_S) -> float:
        """The longest delay in seconds that ended in the last `within_s` seconds."""
        since = self._monotonic() - within_s
        return max((lag for at, lag in self._lags if at >= since), default=0.0)

    def record(self, lag_s: float) -> None:
        """Record a delay that ended now; a long one is logged, at most every 30 s."""
        now = self._monotonic()
        self._lags.append((now, lag_s))
        self.seconds.at().observe(lag_s)
        if lag_s >= _WARN_S and now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            self._log.warning("the event loop was blocked for %.1f s", lag_s)

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._monotonic() + TICK_S
            await asyncio.sleep(TICK_S)
            self.record(max(0.0, self._monotonic() - due))
