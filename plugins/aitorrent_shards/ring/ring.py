"""One answer's way around the ring: token ids into the first stage, candidates out of the last.

The ring is a pipeline of stages that begins and ends at the coordinator. What is lost on the way
is repaired before the answer goes on; see `repair`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.hops.sender import HopFrame, HopSender, Journal
from aitorrent_shards.protocol.messages import (
    MAX_VOCAB,
    SESSION_BYTES,
    Candidates,
    Link,
    Want,
    parse_candidates,
)
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.ring.answer_receiver import AnswerSink
from aitorrent_shards.ring.linking import StageLinker
from aitorrent_shards.ring.opening import StageOpener
from aitorrent_shards.ring.pipeline import Pipeline
from aitorrent_shards.ring.remote_stage import FOREVER, GONE_AVOID_S
from aitorrent_shards.ring.repair import Repair
from aitorrent_shards.ring.stalls import StallDetector
from aitorrent_shards.routing.finder import HolderFinder
from aitorrent_shards.serving.stage_server import StageServer
from aitorrent_shards.tasks import OwnedTasks
from aitorrentd.api import (
    AitorrentError,
    Clock,
    Directory,
    Event,
    Frame,
    ProtocolError,
    StageView,
    Transport,
)

THREAD_ABOVE: Final = 16_384
"Candidates beyond which decoding would hold up the event loop."


class Ring:
    """The stages of one answer, kept whole until it is closed."""

    def __init__(
        self,
        *,
        transport: Transport,
        directory: Directory,
        stage_server: StageServer,
        config: ShardsConfig,
        clock: Clock,
        log: logging.Logger,
        publish: Callable[[Event], None],
        model: str,
        layers: int,
        vocab: int,
        max_positions: int,
        accepts: Callable[[Span], bool],
    ) -> None:
        self._transport, self._stage_server, self._config, self._log = (
            transport,
            stage_server,
            config,
            log,
        )
        self._vocab = vocab
        self._session = secrets.token_bytes(SESSION_BYTES)
        self._tasks = OwnedTasks(log)
        self._pipeline = Pipeline(model, layers, self._home)
        self.sink = AnswerSink(transport.node_id, vocab, self._pipeline.wake, self._bad_answer)
        journal = Journal(max_bytes=4 * max_positions)
        self._head = HopSender(transport, journal, self._tasks, self._head_broke)
        finder = HolderFinder(
            transport,
            directory,
            clock,
            model=model,
            layers=layers,
            max_positions=max_positions,
            accepts=accepts,
            own=stage_server.spans,
        )
        opener = StageOpener(
            self._pipeline,
            finder,
            transport,
            self._tasks,
            config=config,
            log=log,
            vocab=vocab,
            max_positions=max_positions,
        )
        linker = StageLinker(self._pipeline, self._head, self.sink, self._tasks, config)
        self._repair = Repair(
            self._pipeline, opener, linker, config=config, clock=clock, log=log, publish=publish
        )
        self._stalls = StallDetector(self._pipeline, config, clock)
        stage_server.expect(self._session, self.sink)

    def views(self) -> tuple[StageView, ...]:
        """Who computes which layers now."""
        return tuple(StageView(s.peer, s.start, s.end) for s in self._pipeline.stages)

    def hop_us(self) -> float:
        """Median time of a hop: network, ciphers and worker pipe, without the layers' own time.

        A token makes one hop more than there are stages: the last one is back to the coordinator.
        """
        return self.sink.beside_layers_us() / (len(self._pipeline.stages) + 1)

    async def open(self) -> None:
        """Find, open and link stages for all layers.

        Raises:
            Busy: the layers are held, but no holder has room. Unavailable: layers without a
            reachable holder.
        """
        await self._repair.open()

    def send(self, frame: HopFrame) -> None:
        """Send token ids into the first stage; after a loss they are sent again by themselves.

        A first stage on this node has begun with them when this returns.
        """
        self.sink.expect(frame.end)
        self._head.send(frame)

    async def answer(self, length: int) -> Candidates:
        """The candidates after the `length` positions that were sent, whatever is lost on the way.

        Raises:
            Waiting: stages were just lost. Unavailable: no other holder was found in time.
        """
        while True:
            if self.sink.answer is not None:
                return self.sink.answer
            if not self._pipeline.whole:
                await self._repair.recover()
                continue
            news = self._pipeline.news()
            try:
                async with asyncio.timeout(self._config.step_timeout_s):
                    await news
            except TimeoutError:
                await self._stalls.look(length)

    async def more(self, length: int, want: Want) -> Candidates:
        """More candidates after `length` positions (k = 0: all), asked for until `commit`.

        Raises:
            Waiting, Unavailable: as `answer`.
        """
        while True:
            last = self._pipeline.stages[-1]
            try:
                frame = await last.ask(
                    {"op": "candidates", "k": want.k, "temperature": want.temperature},
                    timeout_s=self._config.step_timeout_s + self._config.ping_timeout_s,
                )
                found = await self._decode(frame)
                if found.length != length or len(found.ids) < min(want.k or MAX_VOCAB, self._vocab):
                    raise ProtocolError("candidates of another position, or too few")
                return found
            except ProtocolError as e:
                await self.reject(length, e.message)
            except AitorrentError as e:
                last.lose(e.message, avoid_s=GONE_AVOID_S)
                self.sink.answer = None
                await self.answer(length)

    async def reject(self, length: int, reason: str) -> Candidates:
        """Replace the last stage, which sent nonsense; the new one's answer after `length`.

        Raises:
            Waiting, Unavailable: as `answer`.
        """
        self._bad_answer(reason)
        self.sink.answer = None  # the replacement computes this position again
        return await self.answer(length)

    def commit(self, length: int) -> None:
        """The token after `length` positions is decided; its candidates are not needed again."""
        self.sink.have = length
        self._repair.settle()
        self._stalls.settle()

    async def close(self) -> None:
        """Free every stage."""
        for stage in self._pipeline.stages:
            stage.close()
        self._head.unlink("the answer is over")
        self.sink.detach("the answer is over")
        self._stage_server.forget(self._session)
        await self._tasks.close()

    async def _decode(self, frame: Frame) -> Candidates:
        if len(frame.tail) <= 8 * THREAD_ABOVE:
            return parse_candidates(frame.header, frame.tail, vocab=self._vocab)
        return await asyncio.to_thread(
            parse_candidates, frame.header, frame.tail, vocab=self._vocab
        )

    def _home(self) -> Link:
        """Where the last stage should send."""
        addresses = tuple(self._transport.addresses())[:16]
        return Link(self._transport.node_id, addresses, self._session)

    def _head_broke(self, reason: str) -> None:
        self._log.debug("the hop to the first stage broke: %s", reason)
        self._pipeline.head_to = None
        self._pipeline.changed()

    def _bad_answer(self, reason: str) -> None:
        if self._pipeline.stages:
            self._pipeline.stages[-1].lose(
                f"its answer broke the protocol: {reason}", avoid_s=FOREVER
            )
