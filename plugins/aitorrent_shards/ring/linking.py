"""Links the stages of an answer to their neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aitorrent_shards.hops.sender import HopSender
from aitorrent_shards.node_services import NodeServices
from aitorrent_shards.protocol.messages import Link
from aitorrent_shards.ring.answer_receiver import AnswerSink
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import FOREVER, GONE_AVOID_S, StageControl
from aitorrentd.api import AitorrentError, PeerId, TimedOut, Unavailable
from aitorrentd.api.tasks import Tasks, beside


class StageLinker:
    """Links the stages of a pipeline: the coordinator's `head` to the first, the last to `sink`."""

    def __init__(
        self,
        pipeline: Pipeline,
        head: HopSender,
        sink: AnswerSink,
        tasks: Tasks,
        node: NodeServices,
    ) -> None:
        self._pipeline, self._head, self._sink = pipeline, head, sink
        self._tasks, self._config, self._node = tasks, node.config, node

    async def connect(self) -> None:
        """Make every missing link. The pipeline must have no holes.

        Raises:
            AitorrentError: a link failed; the stage at fault is given up.
        """
        stages = list(self._pipeline.stages)
        prevs, targets = self._pipeline.prevs(), self._pipeline.targets()
        self._sink.prev = stages[-1].peer
        await _all(
            *(self._tell_prev(s, p) for s, p in zip(stages, prevs, strict=True) if s.prev != p)
        )
        await _all(
            self._link_head(stages[0]),
            *(
                self._link(stage, target, after)
                for stage, target, after in zip(stages, targets, [*stages[1:], None], strict=True)
                if stage.linked_to != target.session
            ),
        )

    async def _tell_prev(self, stage: StageControl, prev: PeerId) -> None:
        try:
            await stage.ask({"op": "prev", "peer": prev}, timeout_s=self._config.ping_timeout_s)
            stage.prev = prev
        except AitorrentError as e:
            stage.lose(e.message, avoid_s=FOREVER if isinstance(e, TimedOut) else GONE_AVOID_S)
            raise

    async def _link_head(self, first: StageControl) -> None:
        if self._pipeline.head_to == first.session:
            return
        target = Link(first.peer, first.span.addresses, first.session)
        self._pipeline.head_to = None
        try:
            await _unless_gone(
                self._head.link(target, timeout_s=self._config.link_timeout_s), first
            )
        except AitorrentError as e:
            first.lose(e.message, avoid_s=GONE_AVOID_S)
            raise
        self._pipeline.head_to = first.session
        self._tasks.spawn(self._head.flush(), "shards-replay")

    async def _link(self, stage: StageControl, target: Link, after: StageControl | None) -> None:
        header = {
            "op": "link",
            "peer": target.peer,
            "addresses": target.addresses,
            "session": target.session,
        }
        stage.linked_to = target.session  # before the request: "unlinked" may overtake our wake-up
        try:
            await _unless_gone(stage.ask(header, timeout_s=self._config.link_timeout_s + 1), after)
            self._node.links.worked(stage.peer, target.peer)
        except AitorrentError as e:
            stage.linked_to = None
            # Either end may be at fault: one that does not answer us, else the later one.
            suspects = [s for s in (stage, after) if s is not None and not s.lost]
            await asyncio.gather(*(s.ping(timeout_s=self._config.ping_timeout_s) for s in suspects))
            if suspects and not any(s.lost for s in (stage, after) if s is not None):
                self._blame(stage, target, suspects[-1], e)
            raise

    def _blame(
        self, stage: StageControl, target: Link, farther: StageControl, error: AitorrentError
    ) -> None:
        """Give up the later of two stages that both answer. If one cannot reach the other, plans
        avoid the link instead, and neither stage."""
        if not isinstance(error, (Unavailable, TimedOut)):
            farther.lose(f"no link to it: {error.message}", avoid_s=FOREVER)
            return
        now = self._node.clock.monotonic()
        self._node.links.failed(stage.peer, target.peer, error.message, now)
        whom = "this node" if farther is stage else "it"
        farther.lose(f"{stage.who} cannot reach {whom}: {error.message}", avoid_s=0.0)


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Run all of it to the end, then raise the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if result is not None:
            raise result


async def _unless_gone(work: Coroutine[Any, Any, Any], other: StageControl | None) -> None:
    """Wait for `work`, but only until the stage it depends on is lost.

    Raises:
        Unavailable: the stage was lost meanwhile. Else as `work`.
    """
    if other is None:
        await work
        return
    async with beside(work, "shards-link") as task:
        await asyncio.wait({task, other.gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Unavailable(f"the stage was lost while it was linked: {other.lost}")
        task.result()
