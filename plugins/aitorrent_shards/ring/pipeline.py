"""The stages of one answer in layer order, and what each should be linked to.

State only: opening, linking and repair look up here what is missing, and are woken here when a
stage changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aitorrent_shards.protocol.messages import Link
from aitorrent_shards.ring.remote_stage import StageControl
from aitorrentd.api import AitorrentError, PeerId


class Pipeline:
    """The path from the coordinator through the stages of all layers and back."""

    def __init__(self, model: str, layers: int, home: Callable[[], Link]) -> None:
        """`home` is where the last stage should send its output: the coordinator."""
        self.model, self.layers = model, layers
        self.stages: list[StageControl] = []
        self.head_to: bytes | None = None
        "The session that the coordinator sends to."
        self.whole = False
        "The last result of `check`, until a stage or hop changes."
        self._home = home
        self._waiter: asyncio.Future[None] | None = None

    def news(self) -> asyncio.Future[None]:
        """Done when a stage or hop changes, or an answer arrives; for one waiter at a time."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Wake the waiter for `news`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def changed(self) -> None:
        """A stage or hop changed: the pipeline may be broken."""
        self.whole = False
        self.wake()

    def targets(self) -> list[Link]:
        """Where each stage should send its output."""
        return [*(Link(s.peer, s.span.addresses, s.session) for s in self.stages[1:]), self._home()]

    def prevs(self) -> list[PeerId]:
        """Which peer each stage should take its input from."""
        return [self._home().peer, *(s.peer for s in self.stages[:-1])]

    def holes(self) -> list[tuple[int, int]]:
        """The layers [start, end) without a stage."""
        holes, reached = [], 0
        for stage in self.stages:
            if stage.start > reached:
                holes.append((reached, stage.start))
            reached = stage.end
        return [*holes, (reached, self.layers)] if reached < self.layers else holes

    def refusal(self) -> AitorrentError | None:
        """The reason why a stage refuses the request, if one does."""
        return next((s.refusal for s in self.stages if s.refusal is not None), None)

    def clear(self) -> None:
        """Close all stages, so that a new plan replaces them."""
        for stage in self.stages:
            stage.close()
        self.stages.clear()
        self.head_to = None
        self.whole = False

    def lost(self) -> list[StageControl]:
        """Lost stages that are still in the pipeline."""
        return [s for s in self.stages if s.lost]

    def check(self) -> bool:
        """Whether every layer has a live, correctly linked stage."""
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
