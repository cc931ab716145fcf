"""The stages of one answer in the order of their layers, and what each should be linked to.

State only: who opens, links or repairs stages asks here what is missing, and is woken from here
when something happened to one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aitorrent_shards.protocol.messages import Link
from aitorrent_shards.ring.remote_stage import StageControl
from aitorrentd.api import AitorrentError, PeerId


class Pipeline:
    """From the coordinator through the stages of all layers back to the coordinator."""

    def __init__(self, model: str, layers: int, home: Callable[[], Link]) -> None:
        """`home` is where the last stage should send: the coordinator's own end of the answer."""
        self.model, self.layers = model, layers
        self.stages: list[StageControl] = []
        self.head_to: bytes | None = None
        "The session that the coordinator sends to."
        self.whole = False
        "As `check` said last, until something happens to a stage or hop."
        self._home = home
        self._waiter: asyncio.Future[None] | None = None

    def news(self) -> asyncio.Future[None]:
        """Done when something happens to a stage or hop, or an answer is there; one waits at a
        time."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Something happened; who waits for `news` looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def changed(self) -> None:
        """Something happened to a stage or hop: it may be broken."""
        self.whole = False
        self.wake()

    def targets(self) -> list[Link]:
        """Where each stage should send."""
        return [*(Link(s.peer, s.span.addresses, s.session) for s in self.stages[1:]), self._home()]

    def prevs(self) -> list[PeerId]:
        """From whom each stage should take."""
        return [self._home().peer, *(s.peer for s in self.stages[:-1])]

    def holes(self) -> list[tuple[int, int]]:
        """The layers [start, end) that have no stage."""
        holes, reached = [], 0
        for stage in self.stages:
            if stage.start > reached:
                holes.append((reached, stage.start))
            reached = stage.end
        return [*holes, (reached, self.layers)] if reached < self.layers else holes

    def refusal(self) -> AitorrentError | None:
        """Why a stage refuses the request, if one does."""
        return next((s.refusal for s in self.stages if s.refusal is not None), None)

    def clear(self) -> None:
        """Close all stages, to be planned anew."""
        for stage in self.stages:
            stage.close()
        self.stages.clear()
        self.head_to = None
        self.whole = False

    def lost(self) -> list[StageControl]:
        """The stages that were lost and not taken out yet."""
        return [s for s in self.stages if s.lost]

    def check(self) -> bool:
        """Whether every layer has a live stage that sends where it should."""
        self.whole = (
            bool(self.stages)
            and self.head_to == self.stages[0].session
            and self.stages[-1].end == self.layers
            and all(
                not s.lost and s.refusal is None and s.linked_to == t.session
                for s, t in zip(self.stages, self.targets(), strict=True)
            )
        )
        return self.whole
