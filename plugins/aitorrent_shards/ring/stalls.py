"""Detects a stage that stalls an answer: one that hangs or makes no progress."""

from __future__ import annotations

import asyncio
from typing import Final

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import FOREVER
from aitorrent_shards.serving.holder import allowed_s
from aitorrentd.api import Clock

MAX_QUEUE: Final = 8
"A stage's reported queue may extend the wait for it by at most this factor."


class StallDetector:
    """Remembers the stages' positions, and how long they have not moved."""

    def __init__(self, pipeline: Pipeline, config: ShardsConfig, clock: Clock) -> None:
        self._pipeline, self._config, self._clock = pipeline, config, clock
        self._stall: tuple[tuple[int, ...], float] | None = None
        "The stages' positions, and when they were first reported."

    def settle(self) -> None:
        """A token arrived: the stages moved."""
        self._stall = None

    async def look(self, length: int) -> None:
        """Ping every stage; give up those that do not answer, and, if none has moved for longer
        than a step may take, the first with fewer than `length` positions."""
        stages = list(self._pipeline.stages)
        pongs = await asyncio.gather(
            *(s.ping(timeout_s=self._config.ping_timeout_s) for s in stages)
        )
        answers = [p for p in pongs if p is not None]
        if len(answers) < len(stages) or not stages:
            return
        haves = tuple(have for have, _ in answers)
        now = self._clock.monotonic()
        if self._stall is None or self._stall[0] != haves:
            self._stall = (haves, now)
            return
        waited_s = now - self._stall[1]
        queue = min(max(q for _, q in answers), MAX_QUEUE)
        step_s = allowed_s(self._config.step_timeout_s, 2 * self._config.prefill_chunk)
        if waited_s < step_s * (1 + queue):
            return
        stuck = next(
            (s for s, have in zip(stages, haves, strict=True) if have < length), stages[-1]
        )
        stuck.lose(f"it computed nothing for {waited_s:.0f} s", avoid_s=FOREVER)
