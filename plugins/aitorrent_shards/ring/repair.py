"""Repairs the stages of an answer towards what should be, and says what was lost meanwhile.

Every layer has a live stage, every stage takes from the one before it and sends to the one behind
it, the last one to the coordinator. Opening an answer and healing it after a loss are the same
work; survivors keep their caches, and the senders' journals fill the newcomers.
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
"Stages that opened but do not link at the beginning are tried again for this long."
RETRY_S: Final = 0.2
MAX_RELINKS: Final = 8
"Plans that avoid links which failed, in one try; each may take as long as a link may."


class Waiting(Exception):
    """Stages were lost; asking again waits for others. Raised once for each loss, with its text."""


class Repair:
    """Keeps a pipeline whole, as long as there are holders and time."""

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
            Busy: the layers are held, but no holder has room. Unavailable: layers without a
            reachable holder. InvalidParams, TooLarge: a stage refuses the request.
        """
        await self._repair(self._node.clock.monotonic() + OPEN_S, patient=False)

    async def recover(self) -> None:
        """Repair within the time that is left since the last token.

        Raises:
            Waiting: there is a loss that was not told yet; nothing was repaired. Unavailable: the
            time was not enough. InvalidParams, TooLarge: a stage refuses the request.
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
        """There was a token: the next loss is a new one, with time of its own."""
        self._trouble_since = None
        self._told = False

    async def _repair(self, deadline: float, *, patient: bool = True) -> None:
        """Fill and link until whole; past the deadline, or without holders if not patient, the
        try that is under way is the last."""
        busy, relinks, began = False, 0, self._node.clock.monotonic()
        while True:
            self._raise_refusal()
            self._drop_lost()
            problem: AitorrentError | None = None
            hopeless = False
            try:
                await self._opener.fill()
            except AitorrentError as e:
                if refuses_request(e):
                    raise
                if isinstance(e, LinksFailed) and self._pipeline.stages:
                    self._pipeline.clear()  # other holders for all layers may reach each other
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
                        continue  # a plan without that link, if there is one
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
        """The error that ends the answer, in words that say what is missing."""
        model = self._pipeline.model
        if not self._lost or isinstance(problem, LinksFailed):
            return problem or Unavailable(f"the stages of {model} cannot be linked")
        what = "; ".join(
            f"layers {s.start}-{s.end} of {model} were lost with {s.who} ({s.lost})"
            for s in self._lost[-3:]
        )
        if busy:
            return Unavailable(f"{what} and their other holders have no free capacity")
        return Unavailable(f"{what} and no other node holds them (waited for {waited_s:.1f} s)")

    def _tell_waiting(self) -> None:
        lost = [f"layers {s.start}-{s.end} with {s.who}" for s in self._pipeline.lost()]
        if lost and not self._told:
            self._told = True
            raise Waiting(f"lost {', '.join(lost)}; looking for another holder")

    def _tell_lost(self, stages: tuple[StageControl, ...]) -> None:
        since = self._trouble_since or 0.0
        for lost in self._lost:
            others = [s.peer for s in stages if s.start < lost.end and s.end > lost.start]
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
