"""Tests the links that likely answers need, in the background and before they are needed.

Without it, a link between two holders is known only once an answer tried it, and a model whose
holders cannot reach each other is offered. For each model the coordinator plans as for an answer,
and asks each stage to greet the next one. A plan with a bad link is replaced by the next best, if
there is one, whose links are tested in turn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from aitorrent_shards.node_services import NodeServices
from aitorrent_shards.protocol.messages import REACH_S
from aitorrent_shards.protocol.spans import Span
from aitorrent_shards.routing.planner import Leg, Reaches, reaches_all
from aitorrent_shards.serving.reaching import ask_once
from aitorrentd.api import AitorrentError, Busy, PeerId
from aitorrentd.api.backoff import equal_jitter_s

SETTLE_S: Final = 0.4
"Changes of the directory come together; also spreads out the coordinators that see them."
FRESH_S: Final = 300.0
"A link that worked is tested again after half of this to all of it."
UNKNOWN_S: Final = 30.0
"The same where the test itself failed, which says nothing about the link."
CONFIRM_S: Final = 1.5
"A failure counts if a second test fails after half of this to all of it."
LOOK_S: Final = 30.0
"Plans change without an event, too, as nodes fill up and answers find bad links."
MAX_PLANS: Final = 8
"Plans tried for one model in one pass."
MAX_PROBES: Final = 64
"Links tested in one pass."
AT_ONCE: Final = 4

Plan = Callable[[Reaches], Sequence[Sequence[Leg]]]
"The likely plan of each model over links that satisfy the function."


@dataclass(frozen=True, slots=True)
class Edge:
    """A link that a plan needs, from one stage to the next."""

    sender: Span
    receiver: Span

    @property
    def key(self) -> tuple[PeerId, PeerId]:
        """Its two nodes."""
        return self.sender.peer, self.receiver.peer


class LinkProber:
    """Keeps the links of likely plans tested."""

    def __init__(self, node: NodeServices, plan: Plan, rng: random.Random) -> None:
        self._node, self._plan, self._rng = node, plan, rng
        self._tested: dict[tuple[PeerId, PeerId], tuple[float, float]] = {}
        "When each link was last tested, and when it should be tested again."
        self._changed = asyncio.Event()
        self.probes = 0
        "Tests so far."

    def wake(self) -> None:
        """Holders came or went."""
        self._changed.set()

    async def run(self) -> None:
        """Test links until cancelled."""
        while True:
            self._changed.clear()
            await asyncio.sleep(self._jitter_s(SETTLE_S))
            await self._pass()
            now = self._now()
            next_s = min((self._due_at(key) - now for key in self._tested), default=LOOK_S)
            try:
                async with asyncio.timeout(min(LOOK_S, max(next_s, self._jitter_s(SETTLE_S)))):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _pass(self) -> None:
        """Test what is due in the likely plans, and in those that replace plans with bad links."""
        left = MAX_PROBES
        for _ in range(MAX_PLANS):
            # The best plan counts even with a bad link, which may work again.
            plans = [*self._plan(self._reaches), *self._plan(reaches_all)]
            edges = {edge.key: edge for legs in plans for edge in self._edges(legs)}
            now = self._now()
            due = [e for key, e in edges.items() if self._due_at(key) <= now][:left]
            left -= len(due)
            self._tested = {key: at for key, at in self._tested.items() if key in edges}
            await self._test_all(due)
            if not any(self._node.links.last(*e.key) for e in due):
                return

    def _due_at(self, key: tuple[PeerId, PeerId]) -> float:
        tested_at, due_at = self._tested.get(key, (0.0, 0.0))
        failed = self._node.links.last(*key)
        # An answer may have found it bad since.
        return failed.until if failed is not None and failed.tried_at > tested_at else due_at

    def _edges(self, legs: Sequence[Leg]) -> Iterator[Edge]:
        # This node opens a stream to every stage itself, which serves both directions.
        home = self._node.transport.node_id
        for before, after in pairwise(leg.span for leg in legs):
            if before.peer != after.peer and home not in (before.peer, after.peer):
                yield Edge(before, after)

    def _reaches(self, sender: PeerId, receiver: PeerId) -> bool:
        return self._node.links.last(sender, receiver) is None

    async def _test_all(self, edges: Sequence[Edge]) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def test(edge: Edge) -> None:
            async with room:
                due_at = await self._test(edge)
                self._tested[edge.key] = (self._now(), due_at)

        async with asyncio.TaskGroup() as tasks:
            for edge in edges:
                tasks.create_task(test(edge), name="shards-probe")

    async def _test(self, edge: Edge) -> float:
        """Test a link and record the result; returns when to test it again."""
        links, log = self._node.links, self._node.log
        try:
            problem = await self._ask(edge)
            if problem is not None:
                await asyncio.sleep(self._jitter_s(CONFIRM_S))
                problem = await self._ask(edge)
        except AitorrentError as e:
            log.debug("the link %s to %s cannot be tested: %s", *edge.key, e.message)
            return self._now() + self._jitter_s(UNKNOWN_S)
        if problem is None:
            links.worked(*edge.key)
            return self._now() + self._jitter_s(FRESH_S)
        failed = links.failed(*edge.key, problem.message, self._now())
        log.info("%s cannot reach %s: %s", *edge.key, problem.message)
        return failed.until + self._jitter_s(SETTLE_S)

    async def _ask(self, edge: Edge) -> AitorrentError | None:
        """Why the sender cannot reach the receiver; None if it can.

        Raises:
            AitorrentError: the sender did not answer that question.
        """
        self.probes += 1
        request = {
            "op": "reach",
            "peer": edge.receiver.peer,
            "addresses": edge.receiver.addresses,
        }
        sender = edge.sender
        problem = await ask_once(
            self._node.transport, sender.peer, sender.addresses, request, timeout_s=2 * REACH_S
        )
        if isinstance(problem, Busy):
            raise problem
        return problem

    def _now(self) -> float:
        return self._node.clock.monotonic()

    def _jitter_s(self, whole_s: float) -> float:
        return equal_jitter_s(0, base_s=whole_s, cap_s=whole_s, draw=self._rng.random())
