"""The stages of one answer, from the coordinator's side: chosen, opened, linked, and replaced.

The ring is repaired towards what should be: every layer has a live stage, every stage takes from
the one before it and sends to the one behind it, the last one to the coordinator. Opening an
answer and healing it after a loss are the same work; survivors keep their caches, and the senders'
journals fill the newcomers.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aitorrent_shards.config import ShardsConfig
from aitorrent_shards.control import FOREVER, GONE_AVOID_S, StageControl
from aitorrent_shards.finder import HolderFinder
from aitorrent_shards.holder import allowed_s
from aitorrent_shards.hop import HopFrame, HopSender, Journal
from aitorrent_shards.planner import Leg
from aitorrent_shards.protocol import (
    MAX_VOCAB,
    SESSION_BYTES,
    Candidates,
    Link,
    Want,
    parse_candidates,
)
from aitorrent_shards.sink import AnswerSink
from aitorrent_shards.spans import Span
from aitorrent_shards.stage import StageHost
from aitorrent_shards.tasks import OwnedTasks
from aitorrentd.api import (
    AitorrentError,
    Busy,
    Clock,
    Directory,
    Event,
    Frame,
    PeerId,
    ProtocolError,
    StageLost,
    StageView,
    TimedOut,
    Transport,
    Unavailable,
    short,
)

OPEN_S: Final = 5.0
"Stages that opened but do not link at the beginning are tried again for this long."
RETRY_S: Final = 0.2
MAX_TRIES: Final = 8
THREAD_ABOVE: Final = 16_384
"Candidates beyond which decoding would hold up the event loop."


class Waiting(Exception):
    """Stages were lost; asking again waits for others. Raised once for each loss, with its text."""


class Ring:
    """The stages of one answer, kept whole until it is closed."""

    def __init__(
        self,
        *,
        transport: Transport,
        directory: Directory,
        host: StageHost,
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
        self.stages: list[StageControl] = []
        self._whole = False
        "As `_is_whole` said last, until something happens to a stage or hop."
        self._transport, self._host = transport, host
        self._config, self._clock, self._log, self._publish = config, clock, log, publish
        self._model, self._layers, self._vocab = model, layers, vocab
        self._max_positions = max_positions
        self._finder = HolderFinder(
            transport,
            directory,
            clock,
            model=model,
            layers=layers,
            max_positions=max_positions,
            accepts=accepts,
            own=host.spans,
        )
        self._tasks = OwnedTasks(log)
        self._waiter: asyncio.Future[None] | None = None
        self._lost: list[StageControl] = []
        self._trouble_since: float | None = None
        self._told = False
        self._stall: tuple[tuple[int, ...], float] | None = None
        self._session = secrets.token_bytes(SESSION_BYTES)
        self.sink = AnswerSink(transport.node_id, vocab, self._wake, self._bad_answer)
        journal = Journal(max_bytes=4 * max_positions)
        self._head = HopSender(transport, journal, self._tasks, self._head_broke)
        self._head_to: bytes | None = None
        host.expect(self._session, self.sink)

    def views(self) -> tuple[StageView, ...]:
        """Who computes which layers now."""
        return tuple(StageView(s.peer, s.start, s.end) for s in self.stages)

    def hop_us(self) -> float:
        """Median time of a hop: network, ciphers and worker pipe, without the layers' own time.

        A token makes one hop more than there are stages: the last one is back to the coordinator.
        """
        return self.sink.beside_layers_us() / (len(self.stages) + 1)

    async def open(self) -> None:
        """Find, open and link stages for all layers.

        Raises:
            Busy: the layers are held, but no holder has room. Unavailable: layers without a
            reachable holder.
        """
        await self._repair(self._clock.monotonic() + OPEN_S, patient=False)

    async def send(self, frame: HopFrame) -> None:
        """Send token ids into the first stage; after a loss they are sent again by themselves."""
        self.sink.expect(frame.end)
        await self._head.send(frame)
        # A first stage on this node starts now; what else is done with the last token comes after.
        await asyncio.sleep(0)

    def post(self, frame: HopFrame) -> None:
        """Like `send`, without waiting for the first stage to take it."""
        self.sink.expect(frame.end)
        self._head.journal.append(frame)
        if self._head_to is not None:
            self._tasks.start(self._head.flush(), name="shards-prefill")

    async def answer(self, length: int) -> Candidates:
        """The candidates after the `length` positions that were sent, whatever is lost on the way.

        Raises:
            Waiting: stages were just lost. Unavailable: no other holder was found in time.
        """
        while True:
            if self.sink.answer is not None:
                return self.sink.answer
            if not self._whole:
                self._tell_waiting()
                await self._recover()
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._config.step_timeout_s):
                    await self._waiter
            except TimeoutError:
                await self._look_for_hung(length)

    async def more(self, length: int, want: Want) -> Candidates:
        """More candidates after `length` positions (k = 0: all), asked for until `commit`.

        Raises:
            Unavailable: as `answer`.
        """
        while True:
            last = self.stages[-1]
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
            Unavailable: as `answer`.
        """
        self._bad_answer(reason)
        self.sink.answer = None  # the replacement computes this position again
        return await self.answer(length)

    def commit(self, length: int) -> None:
        """The token after `length` positions is decided; its candidates are not needed again."""
        self.sink.have = length
        self._trouble_since = self._stall = None
        self._told = False

    async def close(self) -> None:
        """Free every stage."""
        for stage in self.stages:
            stage.close()
        self._head.unlink("the answer is over")
        self.sink.detach("the answer is over")
        self._host.forget(self._session)
        await self._tasks.close()

    async def _decode(self, frame: Frame) -> Candidates:
        if len(frame.tail) <= 8 * THREAD_ABOVE:
            return parse_candidates(frame.header, frame.tail, vocab=self._vocab)
        return await asyncio.to_thread(
            parse_candidates, frame.header, frame.tail, vocab=self._vocab
        )

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _changed(self) -> None:
        self._whole = False
        self._wake()

    def _head_broke(self, reason: str) -> None:
        self._log.debug("the hop to the first stage broke: %s", reason)
        self._head_to = None
        self._changed()

    def _bad_answer(self, reason: str) -> None:
        if self.stages:
            self.stages[-1].lose(f"its answer broke the protocol: {reason}", avoid_s=FOREVER)

    def _targets(self) -> list[Link]:
        """Where each stage should send."""
        onwards = [Link(s.peer, s.span.addresses, s.session) for s in self.stages[1:]]
        addresses = tuple(self._transport.addresses())[:16]
        return [*onwards, Link(self._transport.node_id, addresses, self._session)]

    def _prevs(self) -> list[PeerId]:
        """From whom each stage should take."""
        return [self._transport.node_id, *(s.peer for s in self.stages[:-1])]

    def _is_whole(self) -> bool:
        return (
            bool(self.stages)
            and self._head_to == self.stages[0].session
            and self.stages[-1].end == self._layers
            and all(
                not s.lost and s.linked_to == t.session
                for s, t in zip(self.stages, self._targets(), strict=True)
            )
        )

    def _holes(self) -> list[tuple[int, int]]:
        holes, reached = [], 0
        for stage in self.stages:
            if stage.start > reached:
                holes.append((reached, stage.start))
            reached = stage.end
        return [*holes, (reached, self._layers)] if reached < self._layers else holes

    def _drop_lost(self) -> None:
        for stage in [s for s in self.stages if s.lost]:
            self.stages.remove(stage)
            self._lost.append(stage)
            self._finder.avoid(stage.span, stage.avoid_s)
            self._log.warning(
                "layers %d-%d of %s were lost with %s: %s",
                stage.start,
                stage.end,
                self._model,
                short(stage.peer),
                stage.lost,
            )

    def _tell_waiting(self) -> None:
        lost = [f"layers {s.start}-{s.end} with {short(s.peer)}" for s in self.stages if s.lost]
        if lost and not self._told:
            self._told = True
            raise Waiting(f"lost {', '.join(lost)}; looking for another holder")

    async def _recover(self) -> None:
        """Repair within the time that is left since the last token.

        Raises:
            Unavailable: it was not enough.
        """
        now = self._clock.monotonic()
        if self._trouble_since is None:
            self._trouble_since = now
        try:
            await self._repair(self._trouble_since + self._config.resume_timeout_s)
        except AitorrentError:
            self._tell_lost(())
            raise
        self._tell_lost(tuple(self.stages))

    def _tell_lost(self, stages: tuple[StageControl, ...]) -> None:
        since = self._trouble_since or 0.0
        for lost in self._lost:
            others = [s.peer for s in stages if s.start < lost.end and s.end > lost.start]
            self._publish(
                StageLost(
                    model=self._model,
                    peer=lost.peer,
                    layers=(lost.start, lost.end),
                    replacement=",".join(others),
                    stall_s=self._clock.monotonic() - since,
                )
            )
        self._lost.clear()

    async def _repair(self, deadline: float, *, patient: bool = True) -> None:
        """Fill and link until whole; past the deadline, or without holders if not patient, the
        try that is under way is the last."""
        busy = False
        while True:
            self._drop_lost()
            problem: AitorrentError | None = None
            hopeless = False
            try:
                await self._fill()
            except AitorrentError as e:
                problem, hopeless = e, not patient
                busy = busy or isinstance(e, Busy)
            if problem is None:
                try:
                    await self._connect()
                except AitorrentError as e:
                    problem = e
            if problem is None and self._is_whole():
                self._whole = True
                return
            if hopeless or self._clock.monotonic() >= deadline:
                self._drop_lost()
                raise self._explained(problem, busy=busy)
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._waiter}, timeout=RETRY_S if problem else 0)

    def _explained(self, problem: AitorrentError | None, *, busy: bool) -> AitorrentError:
        """The error that ends the answer, in words that say what is missing."""
        if not self._lost:
            return problem or Unavailable(f"the stages of {self._model} cannot be linked")
        what = "; ".join(
            f"layers {s.start}-{s.end} of {self._model} were lost with {short(s.peer)} ({s.lost})"
            for s in self._lost[-3:]
        )
        if busy:
            return Unavailable(f"{what} and their other holders have no room")
        waited_s = self._config.resume_timeout_s
        return Unavailable(f"{what} and nobody else holds them (waited for {waited_s:g} s)")

    async def _fill(self) -> None:
        """Open stages for all holes; those that opened stay, also when others did not.

        Raises:
            Busy: holders without room. Unavailable: no holder.
        """
        failure: AitorrentError | None = None
        for _ in range(MAX_TRIES):
            holes = self._holes()
            if not holes:
                return
            try:
                legs = await self._finder.plan(holes, sticky={s.peer for s in self.stages})
            except Unavailable as e:
                raise failure or e from None
            failure = await self._open_all(legs) or failure
        raise failure or Unavailable(f"the holders of {self._model} change too fast")

    async def _open_all(self, legs: list[Leg]) -> AitorrentError | None:
        """Open legs at once; returns a failure, if there was one, Busy before others."""
        ends = {leg.end: leg.span.peer for leg in legs} | {s.end: s.peer for s in self.stages}
        fresh = [
            StageControl(
                leg,
                ends.get(leg.start, self._transport.node_id),
                self._transport,
                self._tasks,
                self._changed,
                vocab=self._vocab,
            )
            for leg in legs
        ]
        timeout_s = self._config.link_timeout_s
        opening = (s.open(max_positions=self._max_positions, timeout_s=timeout_s) for s in fresh)
        try:
            results = await asyncio.gather(*opening, return_exceptions=True)
        except asyncio.CancelledError:
            for stage in fresh:
                stage.close()
            raise
        failures: list[AitorrentError] = []
        for stage, result in zip(fresh, results, strict=True):
            if result is None:
                self.stages.append(stage)
            elif isinstance(result, AitorrentError):
                self._finder.avoid(stage.span, stage.avoid_s)
                failures.append(result)
                self._log.info(
                    "%s does not take layers %d-%d of %s: %s",
                    short(stage.peer),
                    stage.start,
                    stage.end,
                    self._model,
                    result.message,
                )
            elif isinstance(result, BaseException):
                raise result
        self.stages.sort(key=lambda s: s.start)
        failures.sort(key=lambda e: not isinstance(e, Busy))
        return failures[0] if failures else None

    async def _connect(self) -> None:
        """Make every stage take from and send to its neighbours.

        Raises:
            AitorrentError: a link failed; who is to blame is given up.
        """
        prevs, targets = self._prevs(), self._targets()
        self.sink.prev = self.stages[-1].peer
        await _all(
            *(self._tell_prev(s, p) for s, p in zip(self.stages, prevs, strict=True) if s.prev != p)
        )
        stages = list(self.stages)
        await _all(
            self._link_head(stages[0]),
            *(
                self._link(stage, target, stages[i + 1] if i + 1 < len(stages) else None)
                for i, (stage, target) in enumerate(zip(stages, targets, strict=True))
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
        if self._head_to == first.session:
            return
        target = Link(first.peer, first.span.addresses, first.session)
        self._head_to = None
        try:
            await _unless_gone(
                self._head.link(target, timeout_s=self._config.link_timeout_s), first
            )
        except AitorrentError as e:
            first.lose(e.message, avoid_s=GONE_AVOID_S)
            raise
        self._head_to = first.session
        self._tasks.start(self._head.flush(), name="shards-replay")

    async def _link(self, stage: StageControl, target: Link, after: StageControl | None) -> None:
        header = {
            "op": "link",
            "peer": target.peer,
            "addresses": target.addresses,
            "session": target.session,
        }
        stage.linked_to = target.session  # before asking: "unlinked" may overtake our wake-up
        try:
            await _unless_gone(stage.ask(header, timeout_s=self._config.link_timeout_s + 1), after)
        except AitorrentError as e:
            stage.linked_to = None
            # Either end may be at fault: one that does not even answer us, else the farther one.
            suspects = [s for s in (stage, after) if s is not None and not s.lost]
            await asyncio.gather(*(s.ping(timeout_s=self._config.ping_timeout_s) for s in suspects))
            if suspects and not any(s.lost for s in (stage, after) if s is not None):
                suspects[-1].lose(f"no link to it: {e.message}", avoid_s=FOREVER)
            raise

    async def _look_for_hung(self, length: int) -> None:
        """Ask every stage how far it is; give up those that do not answer or do not move."""
        stages = list(self.stages)
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
        waited = now - self._stall[1]
        queue = min(max(q for _, q in answers), MAX_TRIES)
        if waited < allowed_s(self._config.step_timeout_s, 2 * self._config.prefill_chunk) * (
            1 + queue
        ):
            return
        stuck = next(
            (s for s, have in zip(stages, haves, strict=True) if have < length), stages[-1]
        )
        stuck.lose(f"it computed nothing for {waited:.0f} s", avoid_s=FOREVER)


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Do all of it, to the end, then raise the first error."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if result is not None:
            raise result


async def _unless_gone(work: Coroutine[Any, Any, Any], other: StageControl | None) -> None:
    """Wait for `work`, but not any longer once the stage that it reaches for is lost.

    Raises:
        Unavailable: it was lost meanwhile. Else as `work`.
    """
    if other is None:
        await work
        return
    task = asyncio.create_task(work, name="shards-link")
    try:
        await asyncio.wait({task, other.gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        else:
            raise Unavailable(f"the stage was lost while it was linked: {other.lost}")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
