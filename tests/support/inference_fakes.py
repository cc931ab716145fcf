"""Routers with backends of a test, without a network."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Iterator,
    Sequence,
)
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from aitorrent_inference.catalogue import Catalogue
from aitorrent_inference.config import InferenceConfig
from aitorrent_inference.peers.generate_protocol import PROTOCOL
from aitorrent_inference.peers.measure_protocol import COUNT_TOKENS, EMBED
from aitorrent_inference.peers.serve import GenerateHandler
from aitorrent_inference.routing.router import Router
from aitorrent_inference.routing.seats import Seats
from aitorrent_transport.protection.guard import Guard
from aitorrent_transport.protection.limits import Limits
from aitorrentd.api import (
    AitorrentError,
    Backend,
    Chunk,
    Event,
    GenerateRequest,
    ModelView,
    NotFound,
    PeerId,
    PendingModel,
    Registry,
    WireProtocol,
    peer_id,
)
from tests.support.clocks import FakeClock
from tests.support.transport.memory_directory import MemoryDirectory
from tests.support.transport.memory_network import MemoryNetwork, MemoryTransport

log = logging.getLogger("test.inference")


def node_id(n: int) -> PeerId:
    """A valid peer id for tests, one per number."""
    return peer_id(random.Random(n).randbytes(32))


class FakeBackend:
    """Answers with fixed words, then ends, fails, hangs or stops midway, as configured."""

    def __init__(
        self,
        name: str,
        models: Sequence[str] = ("m",),
        words: Sequence[str] = ("one ", "two"),
        *,
        fails: AitorrentError | None = None,
        hangs: bool = False,
        forgets_done: bool = False,
        down: AitorrentError | None = None,
        last: Chunk | None = None,
    ) -> None:
        self._name = name
        self.model_names = list(models)
        self.words = words
        self.fails = fails
        self.hangs = hangs
        self.forgets_done = forgets_done
        self.down = down
        self.last = last
        self.requests: list[GenerateRequest] = []
        self.asked = asyncio.Event()
        "Set when the first request arrived."
        self.running = 0
        self.stopped = asyncio.Event()
        "Set when an answer was closed early."
        self.gate: asyncio.Event | None = None
        "If given, every answer waits for it before its first word."

    @property
    def name(self) -> str:
        return self._name

    async def models(self) -> Sequence[ModelView]:
        if self.down is not None:
            raise self.down
        return [ModelView(name, self._name, family="fake") for name in self.model_names]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        self.running += 1
        self.asked.set()
        complete = False
        try:
            if request.model not in self.model_names:
                raise NotFound(f"{self._name} has no {request.model!r}")
            if self.gate is not None:
                await self.gate.wait()
            for word in self.words:
                yield Chunk(word)
            if self.hangs:
                await asyncio.Event().wait()
            if self.fails is not None:
                raise self.fails
            complete = True
            if not self.forgets_done:
                yield self.last or Chunk(
                    "",
                    done=True,
                    reason="stop",
                    prompt_tokens=3,
                    completion_tokens=len(self.words),
                    context=(1, 2, 3),
                )
        finally:
            self.running -= 1
            if not complete:
                self.stopped.set()


class LoadingBackend(FakeBackend):
    """Has models that are not ready yet."""

    def __init__(self, name: str, *pending: PendingModel, models: Sequence[str] = ()) -> None:
        super().__init__(name, models)
        self.waiting = list(pending)
        self.looked = 0
        self.ready_after: int | None = None
        "The number of queries after which everything is loaded."

    def pending(self) -> Sequence[PendingModel]:
        self.looked += 1
        if self.ready_after is not None and self.looked > self.ready_after:
            self.model_names += [p.name for p in self.waiting]
            self.waiting = []
        return self.waiting


def loading(name: str = "m", done: int = 30, backend: str = "shards") -> PendingModel:
    text = "layers 0-3 are loading here (30%)"
    return PendingModel(name, backend, "loading", text, done, 100)


LACKING = PendingModel(
    "big", "shards", "incomplete", "no reachable node holds layers 3-6 of big", missing=((3, 6),)
)


@dataclass
class FakeRouter:
    """A router with its environment."""

    id: PeerId
    backends: Registry[Backend]
    catalogue: Catalogue
    router: Router
    handler: GenerateHandler
    directory: MemoryDirectory
    transport: MemoryTransport
    clock: FakeClock
    events: list[Event]

    @contextmanager
    def having(self, *backends: FakeBackend) -> Iterator[None]:
        """The backends registered while the block runs."""
        with ExitStack() as stack:
            for backend in backends:
                stack.enter_context(self.backends.added(backend.name, backend))
            yield


def make_node(
    n: int = 0, net: MemoryNetwork | None = None, *, alone: bool = False, **settings: Any
) -> FakeRouter:
    """Node number `n`; `settings` are the plugin's configuration; `alone` has no transport."""
    net = net or MemoryNetwork()
    me = node_id(n)
    config = InferenceConfig(**settings)
    clock = FakeClock()
    events: list[Event] = []
    backends: Registry[Backend] = Registry("backend")
    directory = MemoryDirectory(me, net.records)
    catalogue = Catalogue(
        backends,
        config,
        clock=clock,
        log=log,
        transport=lambda: None if alone else transport,
        directory=lambda: None if alone else directory,
    )
    seats = Seats(config.max_local, most_waiting=config.max_waiting)
    router = Router(catalogue, seats=seats, clock=clock, publish=events.append, log=log)
    guard = Guard(me, clock, Limits(), log=log, publish=events.append)
    handler = GenerateHandler(
        router,
        max_concurrent=config.max_concurrent,
        clock=clock,
        log=log,
        protection=lambda: None if alone else guard,
    )
    transport = net.join(
        me,
        WireProtocol(PROTOCOL, handler),
        WireProtocol(COUNT_TOKENS, handler.counting),
        WireProtocol(EMBED, handler.embedding),
    )
    return FakeRouter(me, backends, catalogue, router, handler, directory, transport, clock, events)


async def text_of(chunks: AsyncIterator[Chunk]) -> str:
    """The complete answer; fails if it did not end with `done`."""
    out, done = "", False
    async for chunk in chunks:
        out += chunk.text
        done = chunk.done
    assert done, "the answer did not end with done"
    return out
