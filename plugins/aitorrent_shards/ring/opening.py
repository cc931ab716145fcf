"""Opens stages for the layers of an answer that lack one."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aitorrent_shards.node_services import Demand, NodeServices
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import StageControl, refuses_request
from aitorrent_shards.routing.finder import HolderFinder, LinksFailed
from aitorrent_shards.routing.planner import Leg
from aitorrentd.api import AitorrentError, Busy, Unavailable, short
from aitorrentd.api.tasks import Tasks

MAX_TRIES: Final = 8
"The number of plans to try; each leaves out the holders that refused before."


class StageOpener:
    """Fills the holes of a pipeline with stages at the holders chosen by `finder`."""

    def __init__(
        self,
        pipeline: Pipeline,
        finder: HolderFinder,
        tasks: Tasks,
        node: NodeServices,
        demand: Demand,
    ) -> None:
        self._pipeline, self._finder, self._tasks = pipeline, finder, tasks
        self._node, self._demand = node, demand

    def avoid(self, stage: StageControl) -> None:
        """Avoid the holder of a lost stage for the time that the stage gives."""
        self._finder.avoid(stage.span, stage.avoid_s)

    async def fill(self) -> None:
        """Open stages for all holes; opened stages stay open even if others fail.

        Raises:
            Busy: holders without room. Unavailable: no holder. LinksFailed: holders that cannot
            reach each other. InvalidParams, TooLarge: a holder refuses the request.
        """
        failure: AitorrentError | None = None
        for _ in range(MAX_TRIES):
            holes = self._pipeline.holes()
            if not holes:
                return
            try:
                there = [(s.peer, s.start, s.end) for s in self._pipeline.stages]
                legs = await self._finder.plan(holes, stages=there)
            except LinksFailed:
                raise
            except Unavailable as e:
                raise failure or e from None
            failure = await self._open_all(legs) or failure
            if failure is not None and refuses_request(failure):
                raise failure
        raise failure or Unavailable(f"the holders of {self._pipeline.model} change too quickly")

    async def _open_all(self, legs: list[Leg]) -> AitorrentError | None:
        """Open legs concurrently; returns a failure, if any: a refusal of the request first, then
        Busy, then others."""
        fresh = self._controls(legs)
        timeout_s = self._node.config.link_timeout_s
        opening = (
            s.open(
                max_positions=self._demand.max_positions,
                prompt_positions=self._demand.prompt_positions,
                timeout_s=timeout_s,
            )
            for s in fresh
        )
        try:
            results = await asyncio.gather(*opening, return_exceptions=True)
        except asyncio.CancelledError:
            for stage in fresh:
                stage.close()
            raise
        failures: list[AitorrentError] = []
        for stage, result in zip(fresh, results, strict=True):
            if result is None:
                self._pipeline.stages.append(stage)
            elif isinstance(result, AitorrentError):
                failures.append(result)
                if refuses_request(result):
                    continue
                self.avoid(stage)
                is_news = self._node.refusals.is_news(stage.peer, self._node.clock.monotonic())
                self._node.log.log(
                    logging.INFO if is_news else logging.DEBUG,
                    "%s does not accept layers %d-%d of %s: %s",
                    short(stage.peer),
                    stage.start,
                    stage.end,
                    self._pipeline.model,
                    result.message,
                )
            elif isinstance(result, BaseException):
                raise result
        self._pipeline.stages.sort(key=lambda s: s.start)
        failures.sort(key=lambda e: (not refuses_request(e), not isinstance(e, Busy)))
        return failures[0] if failures else None

    def _controls(self, legs: list[Leg]) -> list[StageControl]:
        """A control for each leg, not opened yet, that takes its input from the stage before."""
        stages = self._pipeline.stages
        ends = {leg.end: leg.span.peer for leg in legs} | {s.end: s.peer for s in stages}
        return [
            StageControl(
                leg,
                ends.get(leg.start, self._node.transport.node_id),
                self._node.transport,
                self._tasks,
                self._pipeline.changed,
                vocab=self._demand.vocab,
            )
            for leg in legs
        ]
