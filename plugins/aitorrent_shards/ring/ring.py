"""One answer's ring: token ids into the first stage, candidates out of the last.

The ring is a pipeline of stages that begins and ends at the coordinator. Losses are repaired before
the answer continues; see `repair`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final

from aitorrent_shards.hops.sender import HopMessage, HopSender
from aitorrent_shards.metrics import path_of
from aitorrent_shards.node_services import Demand, NodeServices
from aitorrent_shards.protocol.messages import (
    MAX_VOCAB,
    SESSION_BYTES,
    Candidates,
    Link,
    Want,
    parse_candidates,
)
from aitorrent_shards.ring.answer_receiver import AnswerSink
from aitorrent_shards.ring.linking import StageLinker
from aitorrent_shards.ring.opening import StageOpener
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import FOREVER, GONE_AVOID_S, refuses_request
from aitorrent_shards.ring.repair import Repair
from aitorrent_shards.ring.stalls import StallDetector
from aitorrent_shards.routing.finder import HolderFinder
from aitorrentd.api import (
    AitorrentError,
    Frame,
    ProtocolError,
    StageView,
)
from aitorrentd.api.tasks import Tasks

THREAD_ABOVE: Final = 16_384
"Decoding more candidates than this would block the event loop."


class Ring:
    """The stages of one answer, kept complete until it is closed."""

    def __init__(self, node: NodeServices, demand: Demand) -> None:
        self._node, self._demand = node, demand
        self._tasks = Tasks(node.log)
        self._path = ""
        "How the stages are reached, in metrics; empty = to be found out."
        self._return_session = secrets.token_bytes(SESSION_BYTES)
        "The session of the last hop, from the last stage back to here."
        self._pipeline = Pipeline(demand.model, demand.layers, self._home)
        self.sink = AnswerSink(
            node.transport.node_id, demand.vocab, self._pipeline.wake, self._bad_answer
        )
        self._head = HopSender(
            node.transport, self._tasks, self._head_broke, max_bytes=4 * demand.max_positions
        )
        opener = StageOpener(self._pipeline, HolderFinder(node, demand), self._tasks, node, demand)
        linker = StageLinker(self._pipeline, self._head, self.sink, self._tasks, node)
        self._repair = Repair(self._pipeline, opener, linker, node)
        self._stalls = StallDetector(self._pipeline, node.config, node.clock)
        node.stage_server.expect(self._return_session, self.sink)

    def views(self) -> tuple[StageView, ...]:
        """Which node computes which layers now."""
        return tuple(StageView(s.peer, s.start, s.end) for s in self._pipeline.stages)

    def hop_us(self) -> float:
        """Median time of a hop: network, ciphers and worker pipe, without the time in the layers.

        A token makes one hop more than there are stages: the last one returns to the coordinator.
        """
        return self.sink.beside_layers_us() / (len(self._pipeline.stages) + 1)

    async def open(self) -> None:
        """Find, open and link stages for all layers.

        Raises:
            Busy: no holder of the layers has room. Unavailable: layers without a reachable holder.
        """
        await self._repair.open()

    def send(self, message: HopMessage) -> None:
        """Send token ids into the first stage; after a loss they are resent automatically.

        A first stage on this node has started on them when this returns.
        """
        self.sink.expect(message.end)
        self._head.send(message)

    async def answer(self, length: int) -> Candidates:
        """The candidates after the `length` positions sent, with losses repaired on the way.

        Raises:
            Waiting: stages were just lost. Unavailable: no other holder was found in time.
            InvalidParams, TooLarge: a stage refuses the request.
        """
        while True:
            if self.sink.answer is not None:
                return self.sink.answer
            if not self._pipeline.whole:
                self._path = ""
                await self._repair.recover()
                continue
            news = self._pipeline.news()
            try:
                async with asyncio.timeout(self._node.config.step_timeout_s):
                    await news
            except TimeoutError:
                await self._stalls.look(length)

    async def more(self, length: int, want: Want) -> Candidates:
        """More candidates after `length` positions (k = 0: all), available until `commit`.

        Raises:
            Waiting, Unavailable: as `answer`.
        """
        while True:
            last = self._pipeline.stages[-1]
            try:
                frame = await last.ask(
                    {"op": "candidates", "k": want.k, "temperature": want.temperature},
                    timeout_s=self._node.config.step_timeout_s + self._node.config.ping_timeout_s,
                )
                found = await self._decode(frame)
                if found.length != length or len(found.ids) < min(
                    want.k or MAX_VOCAB, self._demand.vocab
                ):
                    raise ProtocolError("candidates of another position, or too few")
                return found
            except ProtocolError as e:
                await self.reject(length, e.message)
            except AitorrentError as e:
                if refuses_request(e):
                    raise
                last.lose(e.message, avoid_s=GONE_AVOID_S)
                self.sink.answer = None
                await self.answer(length)

    async def reject(self, length: int, reason: str) -> Candidates:
        """Replace the last stage, which sent invalid data; returns the new one's answer after
        `length`.

        Raises:
            Waiting, Unavailable: as `answer`.
        """
        self._bad_answer(reason)
        self.sink.answer = None  # the replacement computes this position again
        return await self.answer(length)

    def commit(self, length: int) -> None:
        """The token after `length` positions is chosen; its candidates are no longer needed."""
        self.sink.have = length
        self._measure()
        self._repair.settle()
        self._stalls.settle()

    def _measure(self) -> None:
        """Count the hops of the token that was just chosen."""
        if (beside_us := self.sink.latest_us) is None:
            return
        if not self._path:
            views = (self._node.transport.peer(s.peer) for s in self._pipeline.stages)
            self._path = path_of(view.route if view is not None else "" for view in views)
        hops = len(self._pipeline.stages) + 1
        self._node.stage_server.metrics.hop(self._path, beside_us / hops)

    async def close(self) -> None:
        """Free every stage."""
        for stage in self._pipeline.stages:
            stage.close()
        self._head.unlink("the answer has ended")
        self.sink.detach("the answer has ended")
        self._node.stage_server.forget(self._return_session)
        await self._tasks.close()

    async def _decode(self, frame: Frame) -> Candidates:
        if len(frame.tail) <= 8 * THREAD_ABOVE:
            return parse_candidates(frame.header, frame.tail, vocab=self._demand.vocab)
        return await asyncio.to_thread(
            parse_candidates, frame.header, frame.tail, vocab=self._demand.vocab
        )

    def _home(self) -> Link:
        """Where the last stage should send its output."""
        addresses = tuple(self._node.transport.addresses())[:16]
        return Link(self._node.transport.node_id, addresses, self._return_session)

    def _head_broke(self, reason: str) -> None:
        self._node.log.debug("the hop to the first stage broke: %s", reason)
        self._pipeline.head_to = None
        self._pipeline.changed()

    def _bad_answer(self, reason: str) -> None:
        if self._pipeline.stages:
            self._pipeline.stages[-1].lose(
                f"its answer broke the protocol: {reason}", avoid_s=FOREVER
            )
