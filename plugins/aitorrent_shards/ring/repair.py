"""Repairs the stages of an answer, and reports what was lost meanwhile.

The target: every layer has a live stage, and every stage takes from the one before it and sends to
the one after it, the last one to the coordinator. Opening an answer and repairing it after a loss
are the same work; survivors keep their caches, and the senders' journals replay to the new stages.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aitorrent_shards.node_services import NodeServices
from aitorrent_shards.ring.linking import StageLinker
from aitorrent_shards.ring.opening import StageOpener
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import StageControl, refuses_request
from aitorrent_shards.routing.finder import LinksFailed
from aitorrentd.api import AitorrentError, Busy, StageLost, Unavailable, short

OPEN_S: Final = 5.0
"Initial links between open stages are retried for this long."
RETRY_S: Final = 0.2
MAX_RELINKS: Final = 8
"Plans around failed links in one attempt; each may take a full link timeout."


class Waiting(Exception):
    """Stages were lost; the next call waits for others. Raised once per loss, with its text."""


class Repair:
    """Keeps a pipeline complete while holders and time allow."""

    def __init__(
        self, pipeline: Pipeline, opener: StageOpener, linker: StageLinker, node: NodeServices
    ) -> None:
        self._pipeline, self._opener, self._linker, self._node = pipeline, opener, linker, node
        self._lost: list[StageControl] = []
        self._trouble_since: float | None = None
        self._told = False

    async def open(self) -> None:
        """Find, open and link stages for all layers.

        Raises:
            Busy: no holder of the layers has room. Unavailable: layers without a reachable holder.
            InvalidParams, TooLarge: a stage refuses the request.
        """
        await self._repair(self._node.clock.monotonic() + OPEN_S, patient=False)

    async def recover(self) -> None:
        """Repair within the time limit, counted from the last token.

        Raises:
            Waiting: a loss was not reported yet; call again. Unavailable: time ran out.
            InvalidParams, TooLarge: a stage refuses the request.
        """
        self._raise_refusal()
        self._tell_waiting()
        now = self._node.clock.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        try:
            await self._repair(self._trouble_since + self._node.config.resume_timeout_s)
        except AitorrentError:
            self._tell_lost(())
            raise
        self._tell_lost(tuple(self._pipeline.stages))

    def settle(self) -> None:
        """A token arrived: the next loss is a new one with a new time limit."""
        self._trouble_since = None
        self._told = False

    async def _repair(self, deadline: float, *, patient: bool = True) -> None:
        """Fill and link until complete; the current attempt is the last past the deadline, or
        without holders unless patient."""
        busy, relinks, began = False, 0, self._node.clock.monotonic()
        while True:
            self._raise_refusal()
            if patient:
                self._tell_waiting()
            self._drop_lost()
            problem: AitorrentError | None = None
            hopeless = False
            try:
                await self._opener.fill()
            except AitorrentError as e:
                if refuses_request(e):
                    raise
                if isinstance(e, LinksFailed) and self._pipeline.stages:
                    self._pipeline.clear()  # a different set of holders may be connected
                    continue
                problem, hopeless = e, not patient
                busy = busy or isinstance(e, Busy)
            if problem is None:
                try:
                    await self._linker.connect()
                except AitorrentError as e:
                    problem = e
                    if relinks < MAX_RELINKS and any(s.avoid_s == 0 for s in self._pipeline.lost()):
                        relinks += 1
                        continue  # plan again without that link, if possible
            if problem is None and self._pipeline.check():
                return
            self._raise_refusal()
            if hopeless or self._node.clock.monotonic() >= deadline:
                self._drop_lost()
                waited_s = self._node.clock.monotonic() - (self._trouble_since or began)
                raise self._explained(problem, busy=busy, waited_s=waited_s)
            await asyncio.wait({self._pipeline.news()}, timeout=RETRY_S if problem else 0)

    def _raise_refusal(self) -> None:
        if (refusal := self._pipeline.refusal()) is not None:
            raise refusal

    def _drop_lost(self) -> None:
        for stage in self._pipeline.lost():
            self._pipeline.stages.remove(stage)
            self._lost.append(stage)
            self._opener.avoid(stage)
            self._node.log.warning(
                "layers %d-%d of %s were lost with %s: %s",
                stage.start,
                stage.end,
                self._pipeline.model,
                short(stage.peer),
                stage.lost,
            )

    def _explained(
        self, problem: AitorrentError | None, *, busy: bool, waited_s: float
    ) -> AitorrentError:
        """The error that ends the answer, with the missing layers; the log has why they are."""
        model = self._pipeline.model
        if not self._lost or isinstance(problem, LinksFailed):
            return problem or Unavailable(f"the stages of {model} cannot be linked")
        what = ", ".join(
            f"node {s.who} was lost with layers {s.start}-{s.end} of {model}"
            for s in self._lost[-3:]
        )
        why = "no other node offered them"
        if busy:
            why = "the other nodes that hold them had no room"
        return Unavailable(
            f"{what}; {why} within {round(waited_s, 1):g} s",
            layers=[[s.start, s.end] for s in self._lost],
        )

    def _tell_waiting(self) -> None:
        lost = [f"layers {s.start}-{s.end} with {s.who}" for s in self._pipeline.lost()]
        if lost and not self._told:
            self._told = True
            limit_s = self._node.config.resume_timeout_s
            raise Waiting(f"lost {', '.join(lost)}; waiting up to {limit_s:g} s for another holder")

    def _tell_lost(self, stages: tuple[StageControl, ...]) -> None:
        since = self._trouble_since or 0.0
        for lost in self._lost:
            others = [s.peer for s in stages if s.start < lost.end and s.end > lost.start]
            if others:
                self._node.stage_server.metrics.replaced(lost.avoid_s)
            self._node.publish(
                StageLost(
                    model=self._pipeline.model,
                    peer=lost.peer,
                    layers=(lost.start, lost.end),
                    replacement=",".join(others),
                    stall_s=self._node.clock.monotonic() - since,
                )
            )
        self._lost.clear()
